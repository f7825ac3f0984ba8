"""What the worker's steps add up to: in all, and second by second over the last minutes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import msgspec

from protocol.messages import Stats
from protocol.units import MS_PER_S
from service.schema.status import Second

KEPT_S = 300


class Totals(msgspec.Struct):
    """Since the service started; only ever growing."""

    steps: int = 0
    step_sequences: int = 0
    tokens: int = 0
    device_s: float = 0.0
    host_s: float = 0.0


class StepStats:
    """Adds up steps and first tokens. No timer: a second without either is not kept."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seconds: deque[Second] = deque(maxlen=KEPT_S)
        self.totals = Totals()

    def add_step(self, stats: Stats, tokens: int) -> None:
        """Add a step of the worker in which so many tokens were generated."""
        totals, second = self.totals, self._now()
        totals.steps += 1
        totals.step_sequences += stats.running
        totals.tokens += tokens
        totals.device_s += stats.device_ms / MS_PER_S
        totals.host_s += stats.host_ms / MS_PER_S
        second.tokens += tokens
        second.running, second.waiting = stats.running, stats.waiting
        if stats.running > second.most_running:
            second.most_running = stats.running
        if stats.waiting > second.most_waiting:
            second.most_waiting = stats.waiting
        second.memory_bytes = stats.memory.active

    def add_first_token(self, waited_s: float) -> None:
        """A request's first token came after this time."""
        second = self._now()
        second.first_tokens += 1
        second.first_token_s += waited_s

    def since(self, at: int) -> list[Second]:
        """The seconds after `at`, oldest first, none older than `KEPT_S`; this one is not over."""
        first = max(at, int(self._clock()) - KEPT_S)
        return [second for second in self._seconds if second.at > first]

    def _now(self) -> Second:
        at = int(self._clock())
        if not self._seconds or self._seconds[-1].at < at:
            self._seconds.append(Second(at))
        return self._seconds[-1]
