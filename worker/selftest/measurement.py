"""One section's figures and its time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from protocol.selftest import Figure, Value, Verdict

Emit = Callable[[Figure], None]
MS_PER_S = 1000.0
NO_TIME = "no time was left"


def within(is_within: bool) -> Verdict:
    """The verdict on a figure that has a bound."""
    return "ok" if is_within else "failed"


class TimeIsUp(Exception):
    """A section has taken its time before it could measure what it is about to."""


class Section:
    """What a section reports. `model` is whose figures these are, if they are a model's."""

    def __init__(
        self,
        name: str,
        budget_s: float,
        emit: Emit,
        *,
        model: str = "",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = name
        self.model = model
        self.clock = clock
        self._emit = emit
        self._end = clock() + budget_s

    @property
    def left_s(self) -> float:
        """The seconds that are left, at least 0."""
        return max(0.0, self._end - self.clock())

    def require_time(self) -> None:
        """Go on only where time is left.

        Raises:
            TimeIsUp: there is none.
        """
        if not self.left_s:
            raise TimeIsUp

    def report(
        self,
        name: str,
        value: Value,
        unit: str = "",
        *,
        at: int | None = None,
        verdict: Verdict = "",
        note: str = "",
    ) -> None:
        """Report one figure."""
        self._emit(
            Figure(
                section=self.name,
                name=name,
                value=value,
                unit=unit,
                at=at,
                model=self.model,
                verdict=verdict,
                note=note,
            )
        )

    def skip(self, name: str, note: str = NO_TIME, *, at: int | None = None) -> None:
        """Report a figure that is not measured."""
        self.report(name, None, at=at, verdict="skipped", note=note)

    def within_time(self, name: str, places: Sequence[int]) -> Iterator[tuple[int, float]]:
        """Each place at which `name` is measured, with its seconds; no more once time is up."""
        for index, at in enumerate(places):
            if self.left_s:
                yield at, self.left_s / (len(places) - index)
            else:
                self.skip(name, at=at)

    def time_s(self, run: Callable[[], object], budget_s: float, most: int = 50) -> float:
        """The median seconds of `run`, which waits for the device.

        The first call, in which kernels are compiled, counts only where the others would take
        longer than `budget_s`.
        """
        end = self.clock() + budget_s
        times = [self._time_once(run)]
        while self.clock() + times[-1] < end and len(times) <= most:
            times.append(self._time_once(run))
        return statistics.median(times[1:] or times)

    def _time_once(self, run: Callable[[], object]) -> float:
        started = self.clock()
        run()
        return self.clock() - started
