"""Statistics of the worker's steps: in total, and per second over the last minutes."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

import msgspec

from protocol.stats import Stats
from protocol.units import MS_PER_S
from service.schema.status import Second

KEPT_S = 300


class Totals(msgspec.Struct):
    """The totals since the service started."""

    steps: int = 0
    step_sequences: int = 0
    tokens: int = 0
    device_s: float = 0.0
    host_s: float = 0.0
    preparation_s: float = 0.0
    preparation_bytes: int = 0
    preempted: int = 0
    recomputed_tokens: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0
    # Drafted tokens that were verified, by where they come from and whether they were right.
    drafted_tokens: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)


class StepStats:
    """Adds up steps and first tokens. A second without either is not stored."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seconds: deque[Second] = deque(maxlen=KEPT_S)
        self.totals = Totals()

    def add_step(self, stats: Stats, tokens: int) -> None:
        """Add steps of the worker that generated `tokens` tokens."""
        totals, second = self.totals, self._current_second()
        totals.steps += stats.steps
        totals.step_sequences += stats.step_sequences
        totals.tokens += tokens
        totals.device_s += stats.device_ms / MS_PER_S
        totals.host_s += stats.host_ms / MS_PER_S
        if stats.preparation_ms:
            totals.preparation_s += stats.preparation_ms / MS_PER_S
            totals.preparation_bytes += stats.preparation_bytes
        if stats.preempted or stats.recomputed_tokens:
            totals.preempted += stats.preempted
            totals.recomputed_tokens += stats.recomputed_tokens
        if stats.accepted_tokens or stats.rejected_tokens:
            totals.accepted_tokens += stats.accepted_tokens
            totals.rejected_tokens += stats.rejected_tokens
            for drafts in stats.drafts:
                totals.drafted_tokens[drafts.origin, "accepted"] += drafts.accepted
                totals.drafted_tokens[drafts.origin, "rejected"] += drafts.rejected
        second.tokens += tokens
        second.running, second.waiting = stats.running, stats.waiting
        if stats.running > second.most_running:
            second.most_running = stats.running
        if stats.waiting > second.most_waiting:
            second.most_waiting = stats.waiting
        second.memory_bytes = stats.memory.active

    def add_first_token(self, first_token_s: float) -> None:
        """Add the time to the first token of a request."""
        second = self._current_second()
        second.first_tokens += 1
        second.first_token_s += first_token_s

    def since(self, at: int) -> list[Second]:
        """The seconds after `at`, oldest first, of the last `KEPT_S`; the last may grow."""
        first = max(at, int(self._clock()) - KEPT_S)
        return [second for second in self._seconds if second.at > first]

    def _current_second(self) -> Second:
        at = int(self._clock())
        if not self._seconds or self._seconds[-1].at < at:
            self._seconds.append(Second(at))
        return self._seconds[-1]
