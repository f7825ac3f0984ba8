"""The APIs that a load is sent through: the request of each, and what is measured of its answer.

Only the fields that are measured are decoded, since the client shares the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

ApiName = Literal["chat", "responses", "messages", "embeddings"]
Body = dict[str, Any]


class Piece(msgspec.Struct, frozen=True):
    """What one event, or a whole answer, tells; `ends`: a complete stream has nothing after it."""

    text: bool = False
    prompt_tokens: int | None = None
    tokens: int | None = None
    error: str | None = None
    ends: bool = False
    cached_tokens: int | None = None


@dataclass(frozen=True)
class Api:
    """One API. `to_body` makes its request of one of chat completions."""

    path: str
    to_body: Callable[[Body], Body]
    read_event: Callable[[bytes], Piece]
    read_whole: Callable[[bytes], Piece]


# ---------------------------------------------------------------- chat completions

DONE = b"[DONE]"


class ChatDelta(msgspec.Struct):
    """The delta of a chunk."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct):
    """The choice of a chunk."""

    delta: ChatDelta = msgspec.field(default_factory=ChatDelta)


class Details(msgspec.Struct):
    """Of the prompt's tokens, those from a cache."""

    cached_tokens: int | None = None


class Counts(msgspec.Struct):
    """Token counts of one request, by the names of all three APIs."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    prompt_tokens_details: Details | None = None


class Part(msgspec.Struct):
    """A chunk of a stream, a whole response, or an error."""

    choices: list[Choice] = []
    usage: Counts | None = None
    error: Any = None


PARTS = msgspec.json.Decoder(Part)


def read_chat(data: bytes) -> Piece:
    """A chunk or a whole chat completion."""
    if data == DONE:
        return Piece(ends=True)
    part = PARTS.decode(data)
    delta = part.choices[0].delta if part.choices else ChatDelta()
    counts = part.usage
    return Piece(
        text=bool(delta.content or delta.reasoning or delta.reasoning_content),
        prompt_tokens=None if counts is None else counts.prompt_tokens,
        tokens=None if counts is None else counts.completion_tokens,
        error=code_of(part.error),
        cached_tokens=None if counts is None else cached_tokens_of(counts),
    )


def cached_tokens_of(counts: Counts) -> int | None:
    """The prompt's tokens from a cache; None where the server does not tell."""
    details = counts.prompt_tokens_details
    return None if details is None else details.cached_tokens


def code_of(error: Any) -> str | None:
    """The kind of an error; None if there is none."""
    if error is None:
        return None
    return str(error.get("code") or error.get("type") if isinstance(error, dict) else error)


# ---------------------------------------------------------------- Responses

SAID = ("output_text.delta", "reasoning_text.delta", "reasoning_summary_text.delta")
TEXT_EVENTS = frozenset(f"response.{name}" for name in SAID)
LAST_EVENTS = frozenset({"response.completed", "response.incomplete"})


class Response(msgspec.Struct):
    """The response in an event, or by itself."""

    usage: Counts | None = None
    error: Any = None


class ResponseEvent(msgspec.Struct):
    """An event of a stream."""

    type: str = ""
    response: Response | None = None
    error: Any = None


RESPONSES = msgspec.json.Decoder(Response)
RESPONSE_EVENTS = msgspec.json.Decoder(ResponseEvent)


def to_response_body(body: Body) -> Body:
    """The same request of the Responses API, which stores the answer unless `store` is false."""
    other = {k: v for k, v in body.items() if k not in ("messages", "max_tokens", "stream_options")}
    limit = {"max_output_tokens": body["max_tokens"]} if "max_tokens" in body else {}
    return {**other, **limit, "input": body["messages"]}


def read_response_event(data: bytes) -> Piece:
    """An event of a response's stream."""
    event = RESPONSE_EVENTS.decode(data)
    if event.type in TEXT_EVENTS:
        return Piece(text=True)
    error = event.error
    if event.response is not None:
        error = error or event.response.error
        counts = event.response.usage
        if counts is not None:
            return Piece(
                prompt_tokens=counts.input_tokens,
                tokens=counts.output_tokens,
                error=code_of(error),
                ends=event.type in LAST_EVENTS,
            )
    return Piece(error=code_of(error), ends=event.type in LAST_EVENTS)


def read_response(data: bytes) -> Piece:
    """A whole response."""
    response = RESPONSES.decode(data)
    counts = response.usage or Counts()
    return Piece(
        prompt_tokens=counts.input_tokens,
        tokens=counts.output_tokens,
        error=code_of(response.error),
    )


# ---------------------------------------------------------------- Messages

BLOCK_DELTA, MESSAGE_STOP = "content_block_delta", "message_stop"


class BlockDelta(msgspec.Struct):
    """The delta of a block."""

    text: str = ""
    thinking: str = ""
    partial_json: str = ""


class Message(msgspec.Struct):
    """A message, whole or as it begins."""

    usage: Counts | None = None
    error: Any = None


class MessageEvent(msgspec.Struct):
    """An event of a stream."""

    type: str = ""
    delta: BlockDelta = msgspec.field(default_factory=BlockDelta)
    message: Message | None = None
    usage: Counts | None = None
    error: Any = None


MESSAGES = msgspec.json.Decoder(Message)
MESSAGE_EVENTS = msgspec.json.Decoder(MessageEvent)


def to_message_body(body: Body) -> Body:
    """The same request of the Messages API."""
    return {k: v for k, v in body.items() if k != "stream_options"}


def read_message_event(data: bytes) -> Piece:
    """An event of a message's stream."""
    event = MESSAGE_EVENTS.decode(data)
    if event.type == BLOCK_DELTA:
        return Piece(text=bool(event.delta.text or event.delta.thinking))
    if event.message is not None and event.message.usage is not None:
        return Piece(prompt_tokens=prompt_tokens_of(event.message.usage))
    tokens = None if event.usage is None else event.usage.output_tokens
    return Piece(tokens=tokens, error=code_of(event.error), ends=event.type == MESSAGE_STOP)


def read_message(data: bytes) -> Piece:
    """A whole message."""
    message = MESSAGES.decode(data)
    counts = message.usage or Counts()
    return Piece(
        prompt_tokens=prompt_tokens_of(counts),
        tokens=counts.output_tokens,
        error=code_of(message.error),
    )


def prompt_tokens_of(counts: Counts) -> int:
    """All tokens of the prompt: this API counts cached ones apart."""
    return counts.input_tokens + counts.cache_read_input_tokens


# ---------------------------------------------------------------- embeddings

# The texts of one request.
TEXTS = 32
# What only answers have.
ANSWER_FIELDS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "stream", "stream_options")


class EmbeddingAnswer(msgspec.Struct):
    """A whole answer, without its vectors."""

    usage: Counts | None = None
    error: Any = None


EMBEDDINGS = msgspec.json.Decoder(EmbeddingAnswer)


def to_embedding_body(body: Body) -> Body:
    """A request for the vectors of as many texts as `TEXTS`, no two of which are equal."""
    other = {k: v for k, v in body.items() if k not in ("messages", *ANSWER_FIELDS)}
    text = body["messages"][-1]["content"]
    texts = [f"{number} {text}" for number in range(TEXTS)]
    return {**other, "input": texts, "encoding_format": "base64"}


def read_embeddings(data: bytes) -> Piece:
    """A whole answer; its tokens are those of its texts."""
    answer = EMBEDDINGS.decode(data)
    tokens = (answer.usage or Counts()).prompt_tokens
    return Piece(prompt_tokens=tokens, tokens=tokens, error=code_of(answer.error))


# ----------------------------------------------------------------

APIS: Mapping[ApiName, Api] = {
    "chat": Api("/v1/chat/completions", dict, read_chat, read_chat),
    "responses": Api("/v1/responses", to_response_body, read_response_event, read_response),
    "messages": Api("/v1/messages", to_message_body, read_message_event, read_message),
    "embeddings": Api("/v1/embeddings", to_embedding_body, read_embeddings, read_embeddings),
}
# Those whose answers are generated, and may be streamed.
GENERATING: Sequence[ApiName] = ("chat", "responses", "messages")
