"""The least tokens of a slice beside decoding rows, where few tokens cost as much as many.

A pass has a cost that does not depend on its tokens, as that of reading the weights: all experts
of a mixture for a few tokens. Where that alone takes longer than a slice may, the shortest slices
would be the result, and a prompt would take many times what it takes alone. So, where such slices
are all that fit, one of twice the tokens is tried now and then; if it takes hardly longer, all
have as many.
"""

from __future__ import annotations

from worker.engine.stopwatch import NEW_WEIGHT, moving_average

# Twice the tokens are worth it if each then costs at most this part of what it did.
WORTH = 0.8
# The most that a slice takes beside decode steps that are no longer; one that is longer than the
# time for it stays below this, or `LONGER` times the shortest one.
LONGEST_S = 0.1
LONGER = 1.5
# After how many slices one of another size is tried: after each that does not pay, twice as many.
FIRST_INTERVAL, LAST_INTERVAL = 4, 256
# How many slices of a size must be measured: one may be slow or fast by chance.
MEASUREMENTS = 2
# The weight of a measurement that is tried: it is rare.
TRIED_WEIGHT = 0.5


class SliceFloor:
    """Measures slices beside decoding rows by their size: `least` tokens, or 2, 4, 8 times that."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._tokens = least
        # By size: the seconds of a token, and how many slices were measured.
        self._token_s: dict[int, float] = {}
        self._measured: dict[int, int] = {}
        self._slices_since_trial = 0
        self._interval = FIRST_INTERVAL
        self._tries_fewer = False

    def choose(self, fitting: int) -> int:
        """The tokens of the next slice, of which `fitting` fit the time."""
        if fitting >= 2 * self._tokens:
            return fitting
        if self._slices_since_trial < self._interval:
            return max(fitting, self._tokens)
        if self._tries_fewer:
            return max(fitting, self._tokens // 2)
        return 2 * self._tokens if self._may_take(2 * self._tokens, self._tokens) else self._tokens

    def record(self, tokens: int, seconds: float) -> None:
        """Measure a slice of these tokens, padding included, beside decoding rows."""
        size = self._size_of(tokens)
        if not size or not seconds:
            return
        count = self._measured[size] = self._measured.get(size, 0) + 1
        # The first one of a size may include the compilation of kernels.
        weight = NEW_WEIGHT if size == self._tokens else TRIED_WEIGHT
        weight = weight if count > MEASUREMENTS else 1.0
        average = self._token_s.get(size, 0.0)
        self._token_s[size] = moving_average(average, seconds / tokens, weight)
        self._end_trial(size)

    def _end_trial(self, size: int) -> None:
        tried = self._slices_since_trial >= self._interval and size != self._tokens
        self._slices_since_trial = 0 if tried else self._slices_since_trial + 1
        before = self._tokens
        self._tokens = self._least
        while self._pays(2 * self._tokens):
            self._tokens *= 2
        if self._tokens != before:
            self._interval, self._tries_fewer = FIRST_INTERVAL, False
        elif tried:
            self._interval = min(2 * self._interval, LAST_INTERVAL)
            self._tries_fewer = not self._tries_fewer and before > self._least

    def _pays(self, size: int) -> bool:
        """Whether slices of this size are better than those of half of it."""
        if self._measured.get(size, 0) < MEASUREMENTS:
            return False
        token_s = self._token_s[size]
        half_token_s = self._token_s.get(size // 2, 0.0)
        return token_s <= WORTH * half_token_s and self._may_take(size, size)

    def _may_take(self, size: int, measured: int) -> bool:
        """Whether slices of `size` may take as long as those of the size `measured`."""
        seconds = self._token_s.get(measured, 0.0) * measured
        least_s = self._token_s.get(self._least, 0.0) * self._least
        return size > 0 and seconds <= max(LONGEST_S, LONGER * least_s)

    def _size_of(self, tokens: int) -> int:
        """The largest size that this slice has; 0 if it is shorter than all."""
        if tokens < self._least:
            return 0
        return self._least << ((tokens // self._least).bit_length() - 1)
