"""Log-probabilities, as chat answers and as completions have them.

They are of the model's own distribution, before penalties, bias, filters and
temperature; -9999.0 stands for a probability of nothing.
"""

from __future__ import annotations

import msgspec


class TopLogprob(msgspec.Struct, frozen=True):
    """A token that was likely at a place."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct, frozen=True):
    """One token of a chat answer, and the likeliest ones at its place, best first."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The tokens of an answer's text, or of one event of a stream."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a completion, or of one event of a stream; four lists of one length.

    `text_offset` is where each token's text begins, in characters. An echoed prompt's first
    token has no log-probability and no alternatives.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
