"""Steps of a check, which have a part of the time of a load and go on while the model is idle."""

from __future__ import annotations

from worker.engine.stopwatch import Stopwatch
from worker.selfcheck.scored_rows import Steps


class TimedSteps:
    """Runs steps, and has `spent_s` of `budget_s` seconds for them."""

    def __init__(self, steps: Steps, budget_s: float) -> None:
        self._steps = steps
        self._budget_s = budget_s
        self.spent_s = 0.0

    @property
    def left_s(self) -> float:
        """The seconds that are left of the budget; none if it is overdrawn."""
        return max(self._budget_s - self.spent_s, 0.0)

    def advance(self) -> bool:
        """Run one step; True when there are no more. Errors are those of the step."""
        stopwatch = Stopwatch()
        ended = next(self._steps, self) is self
        self.spent_s += stopwatch.read_s()
        return ended

    def use_up(self) -> None:
        """Spend what is left: the load ends before the next step."""
        self.spent_s = max(self.spent_s, self._budget_s)
