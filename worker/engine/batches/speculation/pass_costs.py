"""The time of a pass by how many places of each row it computes, measured while rows decode.

More places cost less than as many passes, how much less depends on the device, the model and the
number of rows. A size that has not been measured is reckoned: by the curve that was measured at
the load, and from those sizes that have. What was measured long ago counts less: it may have waited
for something else, and is then measured again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from worker.engine.batches.speculation.cost_curve import CostCurve

# Without a curve a further place is reckoned as this share of a pass.
FIRST_SLOPE = 0.05
# The weight of a measurement, and how far it may be from what is known: a pass waits for others.
WEIGHT = 0.1
MOST_CHANGE = 2.0
# The passes after which a measurement counts half.
HALF_LIFE_PASSES = 256
# What is reckoned counts as many measurements: one alone may have waited for something else.
RECKONED_MEASUREMENTS = 3
# Measurements of a size until their mean counts, before that all weigh the same.
EVEN_MEASUREMENTS = 10


class PassCosts:
    """Seconds of passes, by the rows and the places of each row; `curve` is that of the load."""

    def __init__(self, curve: CostCurve | None = None) -> None:
        self._curve = curve or CostCurve()
        self._seconds: dict[int, dict[int, float]] = {}
        self._counts: dict[tuple[int, int], int] = {}
        # The number of the pass that measured a size last.
        self._measured_at: dict[tuple[int, int], int] = {}
        self._passes = 0

    def record(self, rows: int, places: int, seconds: float) -> None:
        """A pass of this size took so long."""
        self._passes += 1
        self._measured_at[rows, places] = self._passes
        known = self._seconds.setdefault(rows, {})
        count = self._counts[rows, places] = self._counts.get((rows, places), 0) + 1
        before = known.get(places)
        if before is None or not before:
            known[places] = seconds
            return
        seconds = min(max(seconds, before / MOST_CHANGE), before * MOST_CHANGE)
        known[places] = before + (seconds - before) * max(WEIGHT, 1 / min(count, EVEN_MEASUREMENTS))

    def relative(self, rows: int, places: int) -> float:
        """The time of a pass of this size, in passes of one place; at least 1."""
        known = self._seconds.get(rows, {})
        single = known.get(1)
        if not single:
            return self._reckon(rows, places)
        measured = ((n, seconds / single) for n, seconds in sorted(known.items()) if n > 1)
        # What the measured sizes cost more than they are reckoned to.
        excess = [(1, 0.0), *((n, self._excess(rows, n, cost)) for n, cost in measured)]
        return max(1.0, self._reckon(rows, places) + excess_at(places, excess))

    def single_s(self, rows: int) -> float:
        """The seconds of a pass of one place; 0 while they are not known."""
        return self._seconds.get(rows, {}).get(1) or self._curve.seconds(rows, 1)

    def in_passes(self, rows: int, seconds: float) -> float:
        """A time in passes of one place; infinite while their time is not known."""
        single_s = self.single_s(rows)
        return seconds / single_s if single_s else math.inf

    def _excess(self, rows: int, places: int, measured: float) -> float:
        """What a measured cost exceeds the reckoned one by; less if it is old or not sure."""
        passes = self._passes - self._measured_at[rows, places]
        count = self._counts[rows, places]
        weight: float = 0.5 ** (passes / HALF_LIFE_PASSES) * count / (count + RECKONED_MEASUREMENTS)
        return (measured - self._reckon(rows, places)) * weight

    def _reckon(self, rows: int, places: int) -> float:
        """The cost of a size by the curve alone."""
        return reckon(places) if self._curve.is_empty else self._curve.relative(rows, places)


def excess_at(places: int, known: Sequence[tuple[int, float]]) -> float:
    """What a size costs more than reckoned: on the line between known ones, and beyond them."""
    for (low, low_excess), (high, high_excess) in pairwise(known):
        if low <= places <= high:
            return low_excess + (places - low) / (high - low) * (high_excess - low_excess)
    last, last_excess = known[-1]
    return last_excess * (places - 1) / (last - 1) if last > 1 else 0.0


def reckon(places: int) -> float:
    """The cost of places where nothing at all is measured."""
    return 1.0 + FIRST_SLOPE * (places - 1)
