"""What happens to a request: the events of one step of the worker."""

from __future__ import annotations

from typing import Literal

from protocol.structs import Data, Message

FinishReason = Literal["stop", "length", "tool_calls"]
TextKind = Literal["content", "reasoning"]


class Started(Message, frozen=True):
    """The request was admitted. `echo` is the prompt's text where it was asked for.

    `cached_tokens` of the prompt need no prefill. `fingerprint` is the same for the same
    model, settings and versions.
    """

    id: int
    prompt_tokens: int
    echo: str = ""
    cached_tokens: int = 0
    fingerprint: str = ""


class Alternative(Data, frozen=True):
    """A token that could have stood at a place, by its bytes."""

    token: bytes
    logprob: float


class TokenLogprob(Data, frozen=True):
    """One token's bytes and log-probability; a prompt's first token has none.

    `offset` is where its text begins in the whole text, in characters.
    """

    token: bytes
    logprob: float | None
    top: list[Alternative] = []
    offset: int = 0


class PromptLogprobs(Message, frozen=True):
    """The prompt's tokens with their log-probabilities, and its text where it is echoed."""

    id: int
    text: str
    logprobs: list[TokenLogprob]


class TextDelta(Message, frozen=True):
    """New tokens and the text they release; text may be held back and come later.

    `logprobs` has one for each of `tokens` where they were asked for, but for a token
    that ends the answer. All text of the answer's first `settled` tokens is released.
    Of the events that one token causes, the one that carries it comes last.
    """

    id: int
    text: str
    tokens: list[int]
    logprobs: list[TokenLogprob] = []
    settled: int = 0
    kind: TextKind = "content"


class ToolCallStarted(Message, frozen=True):
    """A tool call begins; `index` counts the answer's calls from 0."""

    id: int
    index: int
    name: str


class ArgumentsDelta(Message, frozen=True):
    """The next part of a call's arguments: together they are JSON, unless the answer was cut."""

    id: int
    index: int
    text: str


class Finished(Message, frozen=True):
    """The answer is complete. `completion_tokens` counts resumed and ending tokens too."""

    id: int
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Rejected(Message, frozen=True):
    """The request cannot be served as asked; nothing of it was generated."""

    id: int
    code: str
    message: str
    param: str | None = None


class Failed(Message, frozen=True):
    """The request ended by an error of its own after it had started."""

    id: int
    message: str


Event = (
    Started
    | PromptLogprobs
    | TextDelta
    | ToolCallStarted
    | ArgumentsDelta
    | Finished
    | Rejected
    | Failed
)
