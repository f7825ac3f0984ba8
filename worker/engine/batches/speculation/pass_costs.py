"""The time of a pass by how many places of each row it computes, measured while rows decode.

More places cost less than as many passes, how much less depends on the device, the model and the
number of rows. Sizes that have not been measured are reckoned from those that have.
"""

from __future__ import annotations

from itertools import pairwise

# Before anything is measured a further place is reckoned as this share of a pass.
FIRST_SLOPE = 0.05
# The weight of a measurement, and how far it may be from what is known: a pass waits for others.
WEIGHT = 0.1
MOST_CHANGE = 2.0
# Measurements of a size until their mean counts, before that all weigh the same.
EVEN_MEASUREMENTS = 10


class PassCosts:
    """Seconds of passes, by the rows and the places of each row."""

    def __init__(self) -> None:
        self._seconds: dict[int, dict[int, float]] = {}
        self._counts: dict[tuple[int, int], int] = {}

    def record(self, rows: int, places: int, seconds: float) -> None:
        """A pass of this size took so long."""
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
            return 1.0 + FIRST_SLOPE * (places - 1)
        curve = [(1, 1.0), *((n, s / single) for n, s in sorted(known.items()) if n > 1)]
        for (low, low_cost), (high, high_cost) in pairwise(curve):
            if low <= places <= high:
                part = (places - low) / (high - low)
                return max(1.0, low_cost + part * (high_cost - low_cost))
        last, last_cost = curve[-1]
        slope = max(FIRST_SLOPE, (last_cost - 1.0) / (last - 1)) if last > 1 else FIRST_SLOPE
        return max(1.0, last_cost + slope * (places - last))
