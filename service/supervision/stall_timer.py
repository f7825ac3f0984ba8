"""Measures the time without a sign from the worker, not counting time the service slept."""

from __future__ import annotations


class StallTimer:
    """Counts in bounded steps: a service that was suspended could not receive messages."""

    def __init__(self, now: float) -> None:
        self._last_update = now
        self.seconds = 0.0

    def advance(self, now: float, max_step_s: float) -> None:
        """Add the time since the last call of either method, at most `max_step_s`."""
        self.seconds += min(now - self._last_update, max_step_s)
        self._last_update = now

    def reset(self, now: float) -> None:
        """Start again from 0: a sign arrived, or none is expected."""
        self.seconds = 0.0
        self._last_update = now
