"""The time of a pass by how many places of each row it computes, measured while rows decode.

More places cost less than as many passes, how much less depends on the device, the model and the
number of rows. Sizes that have not been measured are reckoned from those that have. What was
measured long ago counts less: it may have waited for something else, and is then measured again.
"""

from __future__ import annotations

from itertools import pairwise

# Before anything is measured a further place is reckoned as this share of a pass.
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
    """Seconds of passes, by the rows and the places of each row."""

    def __init__(self) -> None:
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
            return reckon(places)
        measured = ((n, seconds / single) for n, seconds in sorted(known.items()) if n > 1)
        aged = ((n, self._age(rows, n, cost)) for n, cost in measured)
        curve: list[tuple[int, float]] = [(1, 1.0), *aged]
        for (low, low_cost), (high, high_cost) in pairwise(curve):
            if low <= places <= high:
                part = (places - low) / (high - low)
                return max(1.0, low_cost + part * (high_cost - low_cost))
        last, last_cost = curve[-1]
        slope = max(FIRST_SLOPE, (last_cost - 1.0) / (last - 1)) if last > 1 else FIRST_SLOPE
        return max(1.0, last_cost + slope * (places - last))

    def _age(self, rows: int, places: int, measured: float) -> float:
        """A measured cost, nearer to what is reckoned the older and the less sure it is."""
        passes = self._passes - self._measured_at[rows, places]
        count = self._counts[rows, places]
        weight: float = 0.5 ** (passes / HALF_LIFE_PASSES) * count / (count + RECKONED_MEASUREMENTS)
        return reckon(places) + (measured - reckon(places)) * weight


def reckon(places: int) -> float:
    """The cost of places before anything is measured."""
    return 1.0 + FIRST_SLOPE * (places - 1)
