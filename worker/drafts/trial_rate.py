"""How often the drafts of a source are right that costs something to be asked.

Only what was drafted shows whether it is right. A source that was wrong too often is therefore
tried again after some passes, after twice as many each time.
"""

from __future__ import annotations

EXPECTED_RATE = 0.7
# How many tokens the expected share counts for, and how fast older tokens lose their weight.
PRIOR_TOKENS = 3.0
KEPT_SHARE = 0.95
# The passes without a draft before a source is tried again.
FIRST_WAIT_PASSES, MAX_WAIT_PASSES = 16, 1024
# A trial was worth it if at least this share was right.
GOOD_RATE = 0.5


class TrialRate:
    """The share of right tokens of one source for one answer."""

    def __init__(self) -> None:
        self._tried = PRIOR_TOKENS
        self._right = EXPECTED_RATE * PRIOR_TOKENS
        self._wait_passes = FIRST_WAIT_PASSES
        self._skipped = 0

    @property
    def rate(self) -> float:
        """How likely the next token is right if those before it are."""
        return self._right / self._tried

    def count(self, accepted: int, rejected: int) -> None:
        """Count a draft; of the tokens behind the first wrong one nothing is known."""
        self._skipped = 0
        for right in [True] * accepted + [False] * (rejected > 0):
            self._tried = self._tried * KEPT_SHARE + 1.0
            self._right = self._right * KEPT_SHARE + right
        if accepted and self.rate >= GOOD_RATE:
            self._wait_passes = FIRST_WAIT_PASSES

    def skip(self) -> None:
        """A pass without a draft of this source; after enough of them it is expected anew."""
        self._skipped += 1
        if self._skipped >= self._wait_passes:
            self._skipped = 0
            self._wait_passes = min(2 * self._wait_passes, MAX_WAIT_PASSES)
            self._tried, self._right = PRIOR_TOKENS, EXPECTED_RATE * PRIOR_TOKENS
