"""How many prompt tokens a step of chunked prefill takes.

While no row decodes, a chunk has the largest size. Beside decoding rows, a chunk may
take `PREFILL_PER_DECODE` times as long as a decode step, or `MIN_PREFILL_S` where that
is longer. The inter-token time is then at most about three times that of decoding alone,
whatever the model's size. Both speeds are measured while the engine runs.
"""

from __future__ import annotations

PREFILL_PER_DECODE = 2.0
# A shorter wait is not noticed, and smaller chunks would slow the prefill down.
MIN_PREFILL_S = 0.012
MIN_CHUNK_TOKENS = 32
# The weight of a new measurement in the moving average.
NEW_WEIGHT = 0.2


class PrefillBudget:
    """The size of a chunk, at most `max_tokens` tokens of each prompt."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._decode_s = 0.0
        self._prompt_token_s = 0.0

    def chunk_tokens(self, decoding_rows: int, prompts: int) -> int:
        """The tokens of each of `prompts` prompts in the next step."""
        if not (decoding_rows and prompts and self._prompt_token_s):
            return self._max_tokens
        budget_s = max(PREFILL_PER_DECODE * self._decode_s, MIN_PREFILL_S)
        tokens = int(budget_s / self._prompt_token_s / prompts)
        return min(self._max_tokens, max(MIN_CHUNK_TOKENS, tokens))

    def reckon(self, decoding_rows: int, prompt_tokens: int) -> float:
        """The seconds that a step of this size is expected to take."""
        decode_s = self._decode_s if decoding_rows else 0.0
        return decode_s + prompt_tokens * self._prompt_token_s

    def record_step(self, elapsed_s: float, decoding_rows: int, prompt_tokens: int) -> None:
        """Update both speeds from the duration of a step."""
        if prompt_tokens:
            decode_s = self._decode_s if decoding_rows else 0.0
            token_s = max(0.0, elapsed_s - decode_s) / prompt_tokens
            self._prompt_token_s = moving_average(self._prompt_token_s, token_s)
        elif decoding_rows:
            self._decode_s = moving_average(self._decode_s, elapsed_s)


def moving_average(average: float, new: float) -> float:
    """The next exponential moving average; an average of 0 has no value yet."""
    return new if not average else average + NEW_WEIGHT * (new - average)
