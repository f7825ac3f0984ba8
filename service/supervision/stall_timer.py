"""How long a worker has said nothing, by a clock that stands still while the service does."""

from __future__ import annotations


class StallTimer:
    """Grows by steps of a bounded length: a service that was stopped, or asleep, did not listen."""

    def __init__(self, now: float) -> None:
        self._since = now
        self.seconds = 0.0

    def grow(self, now: float, longest_s: float) -> None:
        """Nothing was heard since the last call of either kind."""
        self.seconds += min(now - self._since, longest_s)
        self._since = now

    def end(self, now: float) -> None:
        """Something was heard, or nothing was to be said."""
        self.seconds = 0.0
        self._since = now
