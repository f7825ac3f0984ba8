"""How many texts a device call may compute, by its time and its memory.

A text is computed whole, so a call has at least one. Both bounds are those of a slice of prefill:
the speed is measured while the engine runs, and the model reckons the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.engine.prefill_budget import (
    FIRST_TOKENS,
    REPLACED_MEASUREMENTS,
    SHORT_CONTEXT_TOKENS,
    PrefillLimits,
)
from worker.engine.stopwatch import moving_average

# Texts are short, so a call has more of them than a slice of prefill has rows.
TEXTS_PER_ROW = 16
# The bytes of a call of some rows, each of so many tokens.
Cost = Callable[[int, int], int]


class TextBudget:
    """Plans the calls of one model, and measures them."""

    def __init__(self, limits: PrefillLimits, cost: Cost) -> None:
        self._limits = limits
        self._cost = cost
        self._token_s = 0.0
        # The length of the texts with which the speed was measured.
        self._length = 0.0
        self._measurements = 0

    @property
    def slice_s(self) -> float:
        """The longest that a call may take."""
        return self._limits.slice_s

    def longest(self, limit_tokens: int) -> int:
        """The tokens of the longest text, at most `limit_tokens`, that fits the memory alone."""
        low, high = 0, limit_tokens
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._fits(1, middle) else (low, middle - 1)
        return low

    def plan(self, lengths: Sequence[int], seconds: float) -> int:
        """How many of these texts, which are in the order of preference, one call computes."""
        rows = tokens = 0
        for length in lengths[: self._limits.max_rows * TEXTS_PER_ROW]:
            width = max(tokens, length)
            too_long = self.expect(rows + 1, width) > seconds or (
                not self._token_s and (rows + 1) * width > FIRST_TOKENS
            )
            if rows and (too_long or not self._fits(rows + 1, width)):
                break
            rows, tokens = rows + 1, width
        return rows

    def expect(self, rows: int, tokens: int) -> float:
        """The seconds of a call; 0 before one is measured."""
        longer = (tokens + SHORT_CONTEXT_TOKENS) / (self._length + SHORT_CONTEXT_TOKENS)
        return rows * tokens * self._token_s * max(1.0, longer)

    def record(self, elapsed_s: float, rows: int, tokens: int) -> None:
        """Update the speed from a call of so many rows of so many tokens, padding included."""
        token_s = elapsed_s / (rows * tokens)
        self._measurements += 1
        if self._measurements <= REPLACED_MEASUREMENTS:
            self._token_s, self._length = token_s, tokens
            return
        self._token_s = moving_average(self._token_s, token_s)
        self._length = moving_average(self._length, tokens)

    def _fits(self, rows: int, tokens: int) -> bool:
        reserve = self._limits.reserve_bytes
        return not reserve or self._cost(rows, tokens) <= reserve
