"""When the next worker may start, and with how much work at once: a pure state machine."""

from __future__ import annotations

from collections import deque

import msgspec


class RestartLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How deaths are answered.

    A worker that was ready for `sound_after_s` is sound: its death is a first one.
    `deaths_tolerated` deaths of others within `window_s` are too many for a request
    to wait for the next worker, which is tried after `slow_retry_s`.
    """

    first_back_off_s: float = 0.05
    longest_back_off_s: float = 10.0
    sound_after_s: float = 10.0
    deaths_tolerated: int = 5
    window_s: float = 300.0
    slow_retry_s: float = 30.0


class RestartPolicy:
    """The deaths of late, and what they ask for. `max_running` is what may run at once now."""

    def __init__(self, restart_limits: RestartLimits, max_running: int) -> None:
        self._pace = restart_limits
        self._deaths: deque[float] = deque()
        self._full = max_running
        self.max_running = max_running

    @property
    def too_many(self) -> bool:
        """Whether workers die too often for anyone to wait for the next one."""
        return len(self._deaths) >= self._pace.deaths_tolerated

    @property
    def delay_s(self) -> float:
        """How long to wait before the next start."""
        if self.too_many:
            return self._pace.slow_retry_s
        doublings = max(0, len(self._deaths) - 1)
        return min(self._pace.first_back_off_s * 2.0**doublings, self._pace.longest_back_off_s)

    def note_death(self, now: float, ready_s: float) -> None:
        """A worker died that had been ready for `ready_s`."""
        if ready_s >= self._pace.sound_after_s:
            self._deaths.clear()
        self._deaths.append(now)
        while self._deaths[0] < now - self._pace.window_s:
            self._deaths.popleft()

    def explain(self) -> None:
        """The cause of the deaths was found and is gone."""
        self._deaths.clear()

    def halve(self) -> bool:
        """Run half as much at once; False when that is one already."""
        halved = max(1, self.max_running // 2)
        changed, self.max_running = halved != self.max_running, halved
        return changed

    def grow(self, sound_s: float) -> bool:
        """After `sound_s` without trouble: whether twice as much may run now."""
        if self.max_running == self._full or sound_s < self._pace.sound_after_s:
            return False
        self.max_running = min(2 * self.max_running, self._full)
        return True
