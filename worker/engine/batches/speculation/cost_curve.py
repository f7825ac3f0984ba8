"""The time of a pass by its rows and the places of each, measured when the model is loaded.

A few sizes are measured; the others lie on straight lines between them and beyond them, first by
places, then by rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

# A pass over more is never reckoned quicker than one over less.
LEAST_SLOPE = 0.0


class CostCurve:
    """Seconds of passes; it may be filled while it is in use."""

    def __init__(self) -> None:
        self._seconds: dict[int, dict[int, float]] = {}
        # The numbers of rows with a pass of one place and one of more, in order.
        self._measured: list[int] = []
        # What was reckoned of it: it is asked for before every pass.
        self._reckoned: dict[tuple[int, int], float] = {}
        # The bytes of keys and values that attention reads in a second; 0 is unknown.
        self.attended_bytes_s = 0.0

    def add(self, rows: int, places: int, seconds: float) -> None:
        """A pass of this size took so long; of several the shortest counts."""
        known = self._seconds.setdefault(rows, {})
        known[places] = min(seconds, known.get(places, seconds))
        self._measured = sorted(
            n for n, each in self._seconds.items() if 1 in each and len(each) > 1
        )
        self._reckoned.clear()

    @property
    def is_empty(self) -> bool:
        """Whether no number of rows has a pass of one place and one of more."""
        return not self._measured

    def seconds(self, rows: int, places: int) -> float:
        """The seconds of a pass of this size; 0 where nothing is measured."""
        if not self._measured:
            return 0.0
        known = self._reckoned.get((rows, places))
        if known is None:
            known = follow_line(self._measured, lambda n: self._of_places(n, places), rows)
            self._reckoned[rows, places] = known
        return known

    def pass_bytes(self) -> int:
        """What attention reads in the time of a pass of one row and place; 0 if it is unknown."""
        return int(self._seconds.get(1, {}).get(1, 0.0) * self.attended_bytes_s)

    def relative(self, rows: int, places: int) -> float:
        """The time of a pass of this size, in passes of one place; at least 1.

        There is something measured.
        """
        return max(1.0, self.seconds(rows, places) / self.seconds(rows, 1))

    def _of_places(self, rows: int, places: int) -> float:
        known = self._seconds[rows]
        return follow_line(sorted(known), known.__getitem__, places)


def follow_line(known: Sequence[int], value: Callable[[int], float], at: int) -> float:
    """The value at a place on the line through the known ones, which are in order."""
    if len(known) == 1:
        return value(known[0])
    right = min(max(bisect_left(known, at), 1), len(known) - 1)
    low, high = known[right - 1], known[right]
    slope = (value(high) - value(low)) / (high - low)
    if at > high:
        slope = max(slope, LEAST_SLOPE)
    return value(low) + slope * (at - low)
