"""When drafts are looked for: always where that is quick beside a pass or pays, else seldom.

To look for drafts takes the host the same time for a small model as for a large one. Where it finds
none again and again, it may take a small share of the passes' time.
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.engine.sampler import Row

# The share of the passes' time for searches that find nothing.
MAX_SHARE = 0.03
# The number of searches in a row that find nothing before the first pause.
FREE_SEARCHES = 16
# The longest pause: a search enters all tokens since the last one, in the time of one pass.
MAX_PAUSE_PASSES = 32


class PlanTime:
    """The time of the searches for drafts, and of the passes, of one model's batches."""

    def __init__(self) -> None:
        self._pass_s = 0.0
        # The seconds of searches that found nothing, beyond their share of the passes since.
        self._excess_s = 0.0
        self._in_vain = 0

    def is_due(self, rows: Sequence[Row]) -> bool:
        """Whether to look for drafts of these rows now, which is asked before each pass.

        What was in vain for other rows does not count for those that are new.
        """
        if fresh := sum(row.drafter is not None and not row.drafter.known_tokens for row in rows):
            self._excess_s *= 1.0 - fresh / len(rows)
            if fresh == len(rows):
                self._in_vain = 0
        return self._excess_s <= 0.0

    def count_pass(self, seconds: float) -> None:
        """Count the seconds of a pass."""
        self._pass_s = seconds
        self._excess_s = max(self._excess_s - seconds * MAX_SHARE, 0.0)

    def count_search(self, seconds: float, *, in_vain: bool) -> None:
        """Count the seconds of a search; `in_vain` says that it found nothing that pays."""
        self._in_vain = self._in_vain + 1 if in_vain else 0
        if self._in_vain > FREE_SEARCHES:
            self._excess_s = min(seconds, MAX_PAUSE_PASSES * MAX_SHARE * self._pass_s)
