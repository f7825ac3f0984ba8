"""The events of a request, which the worker sends with each step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from protocol.structs import Data, Message

FinishReason = Literal["stop", "length", "tool_calls"]
TextKind = Literal["content", "reasoning"]


class Origin(Data, frozen=True):
    """The message of a request that a message is made of: its index, -1 if in no list, and role."""

    index: int
    role: str


class Parting(Data, frozen=True):
    """The first token of a prompt that the closest known prompt does not have in its place.

    `token` is its place in the prompt, from 0. `differs` says that the known prompt has another
    token there; else it ends before. `message` is the index in the request's list of the message
    that the token is in, `role` that message's role: None outside of messages, or where it is
    unknown.
    """

    token: int
    differs: bool
    message: int | None = None
    role: str | None = None


class PromptUse(Data, frozen=True):
    """Where the tokens of a prompt came from.

    `memory_tokens` and `disk_tokens` of it were in the prompt cache, in memory and in its files,
    at its first admission; `shared_tokens` were computed for another answer with the same prompt.
    `computed_tokens` counts those that were computed for this answer, and with them all that were
    computed again after a preemption or a crash. `common_tokens` is how many of its first tokens
    the closest known prompt has, cached or not; `parted` is None if these are all.
    """

    memory_tokens: int = 0
    disk_tokens: int = 0
    shared_tokens: int = 0
    computed_tokens: int = 0
    common_tokens: int = 0
    parted: Parting | None = None


class Started(Message, frozen=True):
    """The request was admitted. `echo` is the prompt's text if the request has `echo`.

    `cached_tokens` is how many of the prompt's tokens need no prefill. `fingerprint` is the
    same for the same model content, templates and package versions. `ignored` names the
    parameters that this model cannot honour and that have no effect. `dropped_messages` is how
    many of the oldest messages are not in the prompt (`ChatPrompt.truncate`). The times are those
    before the admission, as in `Finished`; `use` is the plan, so `computed_tokens` are yet to be.
    """

    id: int
    prompt_tokens: int
    echo: str = ""
    cached_tokens: int = 0
    fingerprint: str = ""
    ignored: list[str] = []
    dropped_messages: int = 0
    queue_ms: float = 0.0
    preparation_ms: float = 0.0
    load_ms: float = 0.0
    use: PromptUse = PromptUse()


class Progress(Message, frozen=True):
    """A long prompt is in prefill: `done` of its `total` tokens are computed or were cached.

    The prefill has taken `elapsed_ms` so far.
    """

    id: int
    done: int
    total: int
    elapsed_ms: float = 0.0


class Alternative(Data, frozen=True):
    """One of the most likely tokens at a position, as bytes, with its log-probability."""

    token: bytes
    logprob: float


class TokenLogprob(Data, frozen=True):
    """One token's bytes and log-probability; the first token of a prompt has no logprob.

    `top` are the alternatives at its position. `offset` is the start of its text in the
    whole text, in characters.
    """

    token: bytes
    logprob: float | None
    top: list[Alternative] = []
    offset: int = 0


class PromptLogprobs(Message, frozen=True):
    """The log-probabilities of the prompt's tokens, and its text if it is echoed."""

    id: int
    text: str
    logprobs: list[TokenLogprob]


class TextDelta(Message, frozen=True):
    """New tokens and the text they release; some text is withheld and sent later.

    `logprobs` has one item for each of `tokens` if the request asks for them, except for a
    stop token. The text of the answer's first `settled` tokens is sent completely. Of all
    events that one token causes, the one that contains the token is sent last. `accepted` of the
    tokens were drafted; `rejected` were drafted and are not in the answer.
    """

    id: int
    text: str
    tokens: list[int]
    logprobs: list[TokenLogprob] = []
    settled: int = 0
    kind: TextKind = "content"
    accepted: int = 0
    rejected: int = 0


class ToolCallStarted(Message, frozen=True):
    """A tool call begins; `index` is its number in the answer, from 0."""

    id: int
    index: int
    name: str


class ArgumentsDelta(Message, frozen=True):
    """The next part of a call's arguments. All parts together are JSON, unless cut by length."""

    id: int
    index: int
    text: str


class Finished(Message, frozen=True):
    """The answer is complete. `completion_tokens` includes resumed tokens and stop tokens.

    `stopped_by` is the stop string that ended it. `at_context`: with the reason `length` the
    context or the memory ended it, before the request's own limit. The times of all phases add up
    to the time from the request's arrival to its end: `preparation_ms` until its tokens and its
    grammar are ready, `load_ms` while its model was opened and loaded, `queue_ms` while it waited
    for the device, also after a preemption. `restart_ms` is what the service adds while there was
    no worker. `accepted_tokens` of the answer were drafted; `rejected_tokens` were drafted and are
    not in it: they were wrong, or behind its end.
    """

    id: int
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    stopped_by: str | None = None
    at_context: bool = False
    preparation_ms: float = 0.0
    load_ms: float = 0.0
    restart_ms: float = 0.0
    use: PromptUse = PromptUse()
    accepted_tokens: int = 0
    rejected_tokens: int = 0


class TooLong(Data, frozen=True):
    """What exceeds a limit: the tokens of the prompt, and those that the answer needs at least."""

    prompt_tokens: int
    answer_tokens: int
    limit_tokens: int


class Rejected(Message, frozen=True):
    """The request cannot be served; nothing was generated. `param` is the parameter at fault.

    `too_long` is set with the code `context_length_exceeded`; the prompt may have more tokens
    where it was refused before it was tokenized.
    """

    id: int
    code: str
    message: str
    param: str | None = None
    too_long: TooLong | None = None


class Failed(Message, frozen=True):
    """The request ended with an error after `Started`; other requests are not affected."""

    id: int
    message: str


class Tokenized(Message, frozen=True):
    """The result of a `Tokenize`, encoded as JSON: only its maker visits its many tokens.

    `value` is an array of token ids, or of objects with `id` and `piece`; or a text; or the
    tokenizer's configuration. `count` is the number of tokens. `strings` is an array of their
    strings, if requested. `ignored` names the parameters that this model ignores.
    """

    id: int
    context_length: int
    value: bytes
    count: int = 0
    strings: bytes = b""
    ignored: list[str] = []


class Embedded(Message, frozen=True):
    """What is computed of an `Embed`: the vectors of some of its texts, whose `indices` these are.

    `values` are float32 in little-endian order, as many for each text: its vector, or its
    relevance to the query from 0 to 1. A text may be repeated after a crash.
    """

    id: int
    indices: list[int]
    values: bytes


Event = (
    Started
    | Progress
    | PromptLogprobs
    | TextDelta
    | ToolCallStarted
    | ArgumentsDelta
    | Finished
    | Rejected
    | Failed
    | Tokenized
    | Embedded
)


def count_drafts(events: Iterable[Event]) -> tuple[int, int]:
    """How many drafted tokens were accepted, and how many rejected."""
    accepted = rejected = 0
    for event in events:
        if isinstance(event, TextDelta):
            accepted += event.accepted
            rejected += event.rejected
    return accepted, rejected
