"""Log-probabilities in the shapes of chats and of completions.

They are of the model's distribution before penalties, bias, filters and temperature;
-9999.0 stands for a probability of zero.
"""

from __future__ import annotations

import msgspec


class TopLogprob(msgspec.Struct, frozen=True):
    """A likely token at a position."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct, frozen=True):
    """One token of a chat answer, and the most likely tokens at its position, best first."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The tokens of an answer's text, or of one event of a stream."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a completion, or of one event of a stream; four lists of equal length.

    `text_offset` is the position of each token's text, in characters. The first token of an
    echoed prompt has no log-probability and no alternatives.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
