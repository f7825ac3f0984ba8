"""How long a slice of the prompts is, so that those who decode need not wait long for it.

While nobody decodes, slices are as long as they may be. Beside decoding one may
take `SLICE_PER_DECODE` times what a step of decoding takes, or `SHORTEST_SLICE_S`
where that is longer: an inter-token time is then some three times the undisturbed
one at most, whatever the model's size. Both speeds are measured as they go.
"""

from __future__ import annotations

SLICE_PER_DECODE = 2.0
# Below this nobody sees the wait, and prompts would be cut finer than is good for them.
SHORTEST_SLICE_S = 0.012
LEAST_TOKENS = 32
# Of a new measurement in what is kept.
WEIGHT = 0.2


class PrefillBudget:
    """Prompt tokens a slice, at most `most_tokens` of each prompt."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._decode_s = 0.0
        self._token_s = 0.0

    def slice_tokens(self, decoding: int, prompts: int) -> int:
        """Of each of `prompts` prompts, while `decoding` rows decode."""
        if not (decoding and prompts and self._token_s):
            return self._most_tokens
        budget_s = max(SLICE_PER_DECODE * self._decode_s, SHORTEST_SLICE_S)
        tokens = int(budget_s / self._token_s / prompts)
        return min(self._most_tokens, max(LEAST_TOKENS, tokens))

    def note(self, elapsed_s: float, decoding: int, prompt_tokens: int) -> None:
        """What a step took that decoded so many rows, and so many tokens of prompts."""
        if prompt_tokens:
            decode_s = self._decode_s if decoding else 0.0
            self._token_s = mix(self._token_s, max(0.0, elapsed_s - decode_s) / prompt_tokens)
        elif decoding:
            self._decode_s = mix(self._decode_s, elapsed_s)


def mix(kept: float, new: float) -> float:
    """A moving average, which begins with its first value."""
    return new if not kept else kept + WEIGHT * (new - kept)
