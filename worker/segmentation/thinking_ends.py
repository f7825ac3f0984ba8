"""The tokens that end a model's reasoning, so that it goes on with its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.tool_calls.markers import Markers


class MessageEnd(NamedTuple):
    """The text that ends a message of reasoning.

    `next_header` is up to where the next message says what it is, `to_user` is the rest of the
    header of a message to the user.
    """

    next_header: str
    to_user: str


# By the token without which the family's messages are others: Harmony's, and Muse's.
MESSAGE_ENDS = {
    "<|channel|>": MessageEnd("<|end|><|start|>assistant<|channel|>", "final<|message|>"),
    "<|eom|>": MessageEnd("<|eom|><|start|>assistant to=", "user<|message|>"),
}

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ThinkingEnd:
    """The tokens that end reasoning: `again` where the model begins it again after `first`."""

    first: Tokens
    again: Tokens


@dataclass(frozen=True, slots=True)
class ThinkingEnds:
    """What ends the reasoning of a model's answers: of those that may have calls, and others."""

    calling: ThinkingEnd
    plain: ThinkingEnd


def find_thinking_ends(
    tokenizer: TokenizerWrapper, markers: Markers, *, has_channels: bool
) -> ThinkingEnds | None:
    """The ends for this tokenizer's model; None if it marks no reasoning that could be ended."""
    if has_channels:
        vocabulary = tokenizer.get_vocab()
        ends = (end for token, end in MESSAGE_ENDS.items() if token in vocabulary)
        if (end := next(ends, None)) is None:
            return None
        whole = encode_marker(tokenizer, end.next_header + end.to_user)
        # The model may choose a call.
        calling = ThinkingEnd(encode_marker(tokenizer, end.next_header), whole)
        return ThinkingEnds(calling, ThinkingEnd(whole, whole))
    if not markers.think_start or not markers.think_end:
        return None
    tokens = encode_marker(tokenizer, markers.think_end)
    return ThinkingEnds(ThinkingEnd(tokens, tokens), ThinkingEnd(tokens, tokens))


def encode_marker(tokenizer: TokenizerWrapper, text: str) -> Tokens:
    """The tokens of a text in the middle of an answer."""
    token = tokenizer.get_vocab().get(text)
    if token is not None:
        return (int(token),)
    return tuple(tokenizer.encode(text, add_special_tokens=False))
