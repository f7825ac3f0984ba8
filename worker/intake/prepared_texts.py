"""The texts of a request for vectors or scores, as rows of token ids."""

from __future__ import annotations

import dataclasses
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from protocol.embedding import Embed
from protocol.events import Rejected, TooLong
from protocol.messages import Request, Submit
from protocol.structs import Message
from worker.embedding.texts import EmbeddingTexts
from worker.models.model_config import ModelConfig
from worker.outputs.output_processor import AnswerRecord
from worker.prompt_errors import PromptError
from worker.prompts.builder import index_outside

# Token ids of 4 bytes.
TOKEN_TYPE = "I"
TOKEN_BYTES = 4
VALUE_BYTES = 4
# The tokenizer works on so many at a time: their tokens are in memory several times.
TEXTS_AT_ONCE = 64
# All vectors of one answer.
MAX_ANSWER_BYTES = 32 * 1024 * 1024
# The bytes of shorter texts are not counted: their tokens are found soon.
MIN_BOUND_CHARS = 64 * 1024
TOO_LONG = (
    "This model's maximum context length is {limit} tokens{where}, but `{param}` has "
    "{least}{tokens}."
)


class PreparedTexts(Message, frozen=True):
    """The rows of a request, each as the bytes of its token ids."""

    rows: list[bytes]


@dataclass(frozen=True, slots=True)
class PreparedEmbedding:
    """A request whose texts are token ids that fit the model's context.

    `rows` are the texts that are not computed yet, by index; `prompt_tokens` are those of all.
    `received_at` is monotonic time in seconds. Since then it took `opening_s` to open the model's
    files, and then `preparation_s`: 0 once it ran. `record` says where the time of a request went
    that was preempted. `alone`: the model failed on it beside others.
    """

    submit: Embed
    rows: Mapping[int, Sequence[int]]
    prompt_tokens: int
    received_at: float
    config: ModelConfig
    opening_s: float = 0.0
    preparation_s: float = 0.0
    record: AnswerRecord | None = None
    alone: bool = False

    def of_client(self, client: str) -> PreparedEmbedding:
        """The same request as one of this client."""
        submit = msgspec.structs.replace(self.submit, client=client)
        return dataclasses.replace(self, submit=submit)

    @property
    def started(self) -> bool:
        """Whether `Started` was sent, and the request was preempted."""
        return self.record is not None

    @property
    def longest(self) -> tuple[int, int]:
        """The tokens of the longest row, and its index."""
        return max((len(row), index) for index, row in self.rows.items())


def to_embedding(
    config: ModelConfig,
    submit: Embed,
    prepared: PreparedTexts,
    received_at: float,
    opening_s: float = 0.0,
) -> PreparedEmbedding:
    """The request with its prepared rows, whose preparation ends now."""
    rows = {index: array(TOKEN_TYPE, row) for index, row in enumerate(prepared.rows)}
    tokens = sum(map(len, rows.values()))
    preparation_s = max(time.monotonic() - received_at - opening_s, 0.0)
    return PreparedEmbedding(
        submit,
        rows,
        tokens,
        received_at,
        config,
        opening_s=opening_s,
        preparation_s=preparation_s,
    )


def encode_rows(texts: EmbeddingTexts, request: Embed, limit_tokens: int) -> PreparedTexts:
    """The rows of a request.

    Raises:
        PromptError: the model is of another kind or has no such vectors, or a text is too long.
    """
    inputs = msgspec.msgpack.decode(request.prompt, type=list[str | list[int]])
    check_kind(texts, request)
    check_dimensions(texts, request, len(inputs))
    check_bounds(texts, request, inputs, limit_tokens)
    rows = []
    for start in range(0, len(inputs), TEXTS_AT_ONCE):
        some = inputs[start : start + TEXTS_AT_ONCE]
        for index, row in enumerate(encode_some(texts, request, some), start):
            param = name_of(request, index, len(inputs))
            if len(row) > limit_tokens:
                check_query(texts, request, limit_tokens)
                raise too_long(param, len(row), limit_tokens)
            check_ids(texts, row, param)
            rows.append(array(TOKEN_TYPE, row).tobytes())
    return PreparedTexts(rows)


def check_bounds(
    texts: EmbeddingTexts, request: Embed, inputs: list[str | list[int]], limit_tokens: int
) -> None:
    """Refuse texts whose bytes prove that they do not fit, before any is tokenized."""
    named = [(name_of(request, index, len(inputs)), text) for index, text in enumerate(inputs)]
    for param, text in [("query", request.query or ""), *named]:
        if isinstance(text, str) and len(text) >= MIN_BOUND_CHARS:
            tokens = texts.at_least(text)
            if tokens > limit_tokens:
                raise too_long(param, tokens, limit_tokens, least="at least ")


def check_query(texts: EmbeddingTexts, request: Embed, limit_tokens: int) -> None:
    """Refuse a query that does not fit with any document."""
    if request.query is None:
        return
    tokens = len(texts.pair(request.query, ""))
    if tokens > limit_tokens:
        raise too_long("query", tokens, limit_tokens)


def encode_some(
    texts: EmbeddingTexts, request: Embed, inputs: list[str | list[int]]
) -> list[list[int]]:
    """The rows of some texts; token ids are rows as they are."""
    written = [text for text in inputs if isinstance(text, str)]
    if request.query is not None:
        return [texts.pair(request.query, text) for text in written]
    if written:
        return texts.tokenize(written, find_prompt(texts, request))
    return [row for row in inputs if isinstance(row, list)]


def check_ids(texts: EmbeddingTexts, row: list[int], param: str) -> None:
    """Refuse token ids outside the vocabulary, which a request may have."""
    size = texts.facts.vocabulary_size
    if (index := index_outside(row, size)) is not None:
        message = f"`{param}`: token id {row[index]} is outside 0 to {size - 1}."
        raise PromptError("invalid_value", message, param)


def find_prompt(texts: EmbeddingTexts, request: Embed) -> str | None:
    """What the model puts before texts of the request's type."""
    prompts, name = texts.facts.prompts, request.input_type
    if name is None:
        return texts.prompt_of(None)
    if not prompts:
        message = "This model has no prompts, so it does not support `input_type`."
        raise PromptError("unsupported_parameter", message, "input_type")
    return prompts.get(name)


def check_kind(texts: EmbeddingTexts, request: Embed) -> None:
    """Refuse vectors of a reranker, and scores of an embedding model."""
    if texts.facts.kind == "rerank" and request.query is None:
        raise PromptError("model_not_supported", "This model reranks: it has no vectors.", "model")
    if texts.facts.kind == "embedding" and request.query is not None:
        raise PromptError("model_not_supported", "This model does not rerank.", "model")


def check_dimensions(texts: EmbeddingTexts, request: Embed, count: int) -> None:
    """Refuse lengths of vectors that the model is not trained for, and too many values."""
    facts, dimensions = texts.facts, request.dimensions
    if dimensions is not None and not facts.allows(dimensions):
        shorter = ", ".join(map(str, facts.matryoshka)) or "none shorter"
        allowed = f"{facts.dimensions} and {shorter}" if facts.matryoshka else f"{facts.dimensions}"
        if facts.any_length:
            allowed = f"1 to {facts.dimensions}"
        message = f"This model's vectors have `dimensions` {allowed}, not {dimensions}."
        raise PromptError("invalid_value", message, "dimensions")
    width = dimensions or max(facts.dimensions, 1)
    if count * width * VALUE_BYTES > MAX_ANSWER_BYTES:
        most = MAX_ANSWER_BYTES // (width * VALUE_BYTES)
        message = f"An answer holds {most} vectors of {width} dimensions, not {count}."
        raise PromptError("invalid_value", message, request.param)


def name_of(request: Embed, index: int, count: int) -> str:
    """The request's parameter that has this text."""
    return f"{request.param}[{index}]" if count > 1 else request.param


def too_long(
    param: str, tokens: int, limit_tokens: int, where: str = "", *, least: str = ""
) -> PromptError:
    """The error for a text that is longer than a limit; `where` says which one it is."""
    message = TOO_LONG.format(
        limit=limit_tokens, where=where, param=param, tokens=tokens, least=least
    )
    details = TooLong(tokens, 0, limit_tokens)
    return PromptError("context_length_exceeded", message, param, too_long=details)


def reject_other_kind(config: ModelConfig, request: Request) -> Rejected | None:
    """The rejection of a request that this kind of model cannot serve, if it cannot."""
    if isinstance(request, Embed) and config.texts is None:
        message = "This model has no embeddings; configure one with kind = embedding."
    elif isinstance(request, Submit) and config.texts is not None:
        message = "This model generates no text: it is for embeddings or for reranking."
    else:
        return None
    return Rejected(request.id, "model_not_supported", message, "model")
