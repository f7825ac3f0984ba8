"""The results of preparation: requests as token ids, and models whose files were read."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from protocol.embedding import Embed
from protocol.events import Rejected, Tokenized
from protocol.grammars import Lark
from protocol.messages import Submit
from protocol.structs import Message
from protocol.tokenization import Tokenize
from worker.embedding.texts import EmbeddingTexts
from worker.folder.generation_config import apply_defaults
from worker.intake.prepared_texts import PreparedEmbedding, PreparedTexts, encode_rows
from worker.models.model_config import ModelConfig
from worker.outputs.output_processor import AnswerRecord
from worker.outputs.parsers import OutputParsers
from worker.prompt_errors import PromptError
from worker.prompts.builder import PromptBuilder, least_room
from worker.prompts.message_map import NO_MESSAGES, MessageMap
from worker.prompts.tokenization import convert
from worker.structured_output.answer_grammar import AnswerGrammar, AnyGrammar
from worker.structured_output.constraint import CompiledGrammar

logger = logging.getLogger(__name__)

MAX_LOGGED_CHARS = 200


class PreparedPrompt(Message, frozen=True):
    """What is prepared of a request, on any thread or in another process.

    The fields are those of `PreparedRequest`.
    """

    tokens: list[int]
    max_tokens: int
    echo: str
    breakpoints: list[int]
    ignored: list[str]
    answer_grammar: AnswerGrammar | None
    offered_calls: Lark | None
    dropped_messages: int = 0
    message_map: MessageMap = NO_MESSAGES
    prediction: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request whose prompt is token ids that fit the model's context.

    `received_at` is monotonic time in seconds. `started` means that `Started` was sent: the
    request ran before and was preempted, `preempted_for_memory` that this was for memory;
    `computed_tokens` of its context were computed then. A request that runs is not preempted
    for memory before it has `guaranteed_tokens`, unless its model's oldest request needs it.
    `record` is that of an answer that was preempted. Of the time since its arrival it took
    `opening_s` to open its model's files, and then `preparation_s` to prepare it: 0 once it ran.
    `grammar` is compiled from `answer_grammar` (reasoning, then calls or the submitted
    grammar's text), from the submitted grammar, or from `offered_calls` (the grammar of calls
    that an answer without a format may have). `breakpoints` are token offsets
    in the prompt at which prefill stops to store a reusable state. `ignored` are the
    parameters that this model ignores. `alone`: the model failed on it beside others, so that
    it runs in a batch of its own. `dropped_messages` of the conversation are not in the prompt.
    `message_map` says where those are that are in it. `prediction` may be the answer's tokens.
    """

    submit: Submit
    prompt: list[int]
    max_tokens: int
    echo: str
    received_at: float
    config: ModelConfig
    started: bool = False
    preempted_for_memory: bool = False
    computed_tokens: int = 0
    guaranteed_tokens: int = 0
    record: AnswerRecord | None = None
    opening_s: float = 0.0
    preparation_s: float = 0.0
    breakpoints: Sequence[int] = ()
    ignored: Sequence[str] = ()
    grammar: CompiledGrammar | None = None
    answer_grammar: AnswerGrammar | None = None
    offered_calls: Lark | None = None
    alone: bool = False
    dropped_messages: int = 0
    message_map: MessageMap = NO_MESSAGES
    prediction: Sequence[int] = ()

    def of_client(self, client: str) -> PreparedRequest:
        """The same request as one of this client."""
        submit = msgspec.structs.replace(self.submit, client=client)
        return replace(self, submit=submit)

    @property
    def is_bounded(self) -> bool:
        """Whether the whole answer is reserved at once: its limit is no ceiling."""
        return self.submit.max_tokens is not None and not self.submit.ceiling

    @property
    def worst_case(self) -> int:
        """The most tokens that the prompt and the answer can have."""
        return len(self.prompt) + self.max_tokens

    @property
    def least_tokens(self) -> int:
        """How many tokens must fit if the answer is to go on and to have its `min_tokens`."""
        next_token = len(self.prompt) + len(self.submit.resume) + 1
        least = max(next_token, len(self.prompt) + self.submit.sampling.min_tokens)
        return min(least, self.worst_case)

    @property
    def source_grammar(self) -> AnyGrammar | None:
        """The grammar to compile for this request, if any."""
        return self.answer_grammar or self.submit.grammar or self.offered_calls

    @property
    def context(self) -> list[int]:
        """The token ids to prefill: the prompt, then the tokens generated before."""
        return self.prompt + self.submit.resume if self.submit.resume else self.prompt


@dataclass(frozen=True, slots=True)
class RequestDeferred:
    """A request waits for its model's files or its grammar, or has ended without the device.

    It wakes the engine core, which then sends the new number of waiting requests.
    """

    id: int


@dataclass(frozen=True, slots=True)
class ModelOpened:
    """A model's files were read because of a command to load it."""

    config: ModelConfig


@dataclass(frozen=True, slots=True)
class ModelOpenFailed:
    """A model's files cannot be read."""

    model: str
    reason: str


PreparationResult = (
    PreparedRequest | PreparedEmbedding | Rejected | RequestDeferred | ModelOpened | ModelOpenFailed
)


def for_sequence(
    result: PreparedRequest | Rejected, sequence: Submit
) -> PreparedRequest | Rejected:
    """The result of a request for one of its sequences; all share the prompt and the grammar."""
    if isinstance(result, Rejected):
        return msgspec.structs.replace(result, id=sequence.id)
    return replace(result, submit=sequence)


def with_duration(request: PreparedRequest, now: float) -> PreparedRequest:
    """The request, whose preparation ends at monotonic time `now`."""
    preparation_s = max(now - request.received_at - request.opening_s, 0.0)
    return replace(request, preparation_s=preparation_s)


def prepare(
    config: ModelConfig, submit: Submit, *, wants_breakpoints: bool = False
) -> PreparedRequest | Rejected:
    """The request with its prompt as token ids, or its rejection, prepared on this thread."""
    received_at = time.monotonic()
    prepared = prepare_prompt(
        config.prompts,
        config.parsers,
        submit,
        wants_breakpoints=wants_breakpoints,
        enforces_calls=config.grammars.vocabulary is not None,
    )
    if isinstance(prepared, Rejected):
        return prepared
    return to_request(config, submit, prepared, received_at)


def prepare_prompt(
    prompts: PromptBuilder,
    parsers: OutputParsers,
    submit: Submit,
    *,
    wants_breakpoints: bool,
    enforces_calls: bool,
    is_large: bool = False,
) -> PreparedPrompt | Rejected:
    """The request's prompt as token ids, or its rejection.

    Without `enforces_calls` optional tool calls get no grammar. The length of a prompt that
    `is_large` is checked before it is tokenized, which takes time by itself.
    """
    try:
        prompts.check_sampling(submit.sampling)
        short = prompts.shorten(submit.prompt, least_room(submit))
        if is_large and not short.tokens:
            prompts.check_length(msgspec.structs.replace(submit, prompt=short.prompt))
        prompt = short.tokens or prompts.build(short.prompt)
        max_tokens = prompts.limit(submit, len(prompt))
        messages = prompts.map_messages(short, prompt)
        breakpoints = (
            prompts.breakpoints(short.prompt, prompt, messages) if wants_breakpoints else []
        )
        relaxed = parsers.list_relaxed(submit) if enforces_calls else []
        for path in relaxed:
            logger.warning("request %d: not enforced: %r", submit.id, path[:MAX_LOGGED_CHARS])
        return PreparedPrompt(
            tokens=prompt,
            ignored=[*prompts.ignored(submit.prompt), *parsers.ignored(submit), *relaxed],
            max_tokens=max_tokens,
            echo=(
                prompts.echo(submit.prompt, skip_special_tokens=submit.skip_special_tokens)
                if submit.echo
                else ""
            ),
            breakpoints=breakpoints,
            answer_grammar=parsers.answer_grammar(submit, prompt),
            offered_calls=parsers.optional_call_grammar(submit) if enforces_calls else None,
            dropped_messages=short.dropped_messages,
            message_map=messages,
            prediction=prompts.encode_prediction(submit.prediction),
        )
    except Exception as error:
        return to_rejection(submit.id, error)


def tokenize_prompt(prompts: PromptBuilder, request: Tokenize) -> Tokenized | Rejected:
    """The result of a conversion by the tokenizer alone."""
    try:
        return convert(prompts, request)
    except Exception as error:
        return to_rejection(request.id, error)


def prepare_texts(
    texts: EmbeddingTexts | None, request: Embed, limit_tokens: int
) -> PreparedTexts | Rejected:
    """The rows of a request for vectors or scores, each of at most `limit_tokens`."""
    assert texts is not None
    try:
        return encode_rows(texts, request, limit_tokens)
    except Exception as error:
        return to_rejection(request.id, error)


def to_rejection(id: int, error: Exception) -> Rejected:
    """The rejection of a prompt because of `error`, which is logged unless the client caused it.

    An error in one prompt must not end the thread that prepares all of them.
    """
    if isinstance(error, PromptError):
        return error.to_rejected(id)
    logger.error("request %d: its prompt could not be prepared", id, exc_info=error)
    return Rejected(id, "internal_error", "The prompt could not be prepared.")


def to_request(
    config: ModelConfig,
    submit: Submit,
    prepared: PreparedPrompt,
    received_at: float,
    *,
    opening_s: float = 0.0,
) -> PreparedRequest:
    """The request with its prepared prompt, and the model's values of what it leaves unset."""
    config.parsers.compile(submit)
    sampling = apply_defaults(submit.sampling, config.defaults)
    return PreparedRequest(
        submit=msgspec.structs.replace(submit, sampling=sampling),
        prompt=prepared.tokens,
        max_tokens=prepared.max_tokens,
        echo=prepared.echo,
        received_at=received_at,
        opening_s=opening_s,
        config=config,
        breakpoints=prepared.breakpoints,
        ignored=prepared.ignored,
        answer_grammar=prepared.answer_grammar,
        offered_calls=prepared.offered_calls,
        dropped_messages=prepared.dropped_messages,
        message_map=prepared.message_map,
        prediction=prepared.prediction,
    )
