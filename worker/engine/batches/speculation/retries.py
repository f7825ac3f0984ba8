"""When drafts are tried again that are reckoned to cost too much.

What a pass costs is measured while a model is loaded, perhaps beside other work, and is never
measured again where nothing is drafted. So a few passes are drafted as if they were cheap, after
some that were not drafted because of the cost, and after twice as many each time.
"""

from __future__ import annotations

FIRST_WAIT_PASSES, MAX_WAIT_PASSES = 32, 8192
# One measurement alone counts little.
RETRIED_PASSES = 3


class Retries:
    """Counts the passes of one model that are not drafted because of their cost."""

    def __init__(self) -> None:
        self._refused = 0
        self._wait_passes = FIRST_WAIT_PASSES
        self._left = 0

    @property
    def is_due(self) -> bool:
        """Whether the next drafts are verified whatever they are reckoned to cost."""
        return self._left > 0

    def refuse(self) -> None:
        """A pass is not drafted because of its cost."""
        self._refused += 1
        if self._refused >= self._wait_passes:
            self._refused, self._left = 0, RETRIED_PASSES
            self._wait_passes = min(2 * self._wait_passes, MAX_WAIT_PASSES)

    def use(self) -> None:
        """A pass is drafted."""
        self._left = max(self._left - 1, 0)
