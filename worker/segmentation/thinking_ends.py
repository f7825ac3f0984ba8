"""The tokens that end a model's reasoning, so that it goes on with its answer."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.tool_calls.markers import Markers

# Harmony: after the first of these the model may choose the channel of a call.
NEXT_CHANNEL = "<|end|><|start|>assistant<|channel|>"
FINAL_CHANNEL = NEXT_CHANNEL + "final<|message|>"
CHANNEL_MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")

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
        if not all(marker in vocabulary for marker in CHANNEL_MARKERS):
            return None
        final = encode_marker(tokenizer, FINAL_CHANNEL)
        calling = ThinkingEnd(encode_marker(tokenizer, NEXT_CHANNEL), final)
        return ThinkingEnds(calling, ThinkingEnd(final, final))
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
