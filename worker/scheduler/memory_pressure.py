"""Memory pressure: keeps memory in use below the budget's marks.

What is in use can exceed what was reserved: buffers that MLX keeps, blocks that the C
library has not returned, whatever else the process needs.
"""

from __future__ import annotations

import time

import msgspec

from protocol.messages import Memory
from worker.memory.budget import Measure, release, used
from worker.models.pool import ModelPool
from worker.scheduler.waiting_queue import WaitingQueue

# Returning memory takes time itself: not at every step.
PAUSE_S = 1.0


class MemoryPressure:
    """Measures after each step; `memory` is the last measurement."""

    def __init__(self, pool: ModelPool, waiting: WaitingQueue, measure: Measure) -> None:
        self._pool = pool
        self._waiting = waiting
        self._measure = measure
        self._freed_at = -PAUSE_S
        self.memory = self._measure_now()

    def check(self) -> bool:
        """Free what can be freed past the soft mark; returns whether the budget is reached."""
        account = self._pool.account
        account.fit_prompt_cache()
        self.memory = self._measure_now()
        now = time.monotonic()
        if used(self.memory) > account.budget.soft_mark and now >= self._freed_at + PAUSE_S:
            self._freed_at = now
            self._free()
        return used(self.memory) >= account.budget.limit

    def _free(self) -> None:
        """Return freed memory first, then shrink the prompt cache, then evict an idle model."""
        account = self._pool.account
        release()
        self.memory = self._measure_now()
        excess = used(self.memory) - account.budget.soft_mark
        if excess > 0 and account.prompt_cache.nbytes:
            account.shrink_prompt_cache(excess)
            release()
            self.memory = self._measure_now()
        over = used(self.memory) > account.budget.soft_mark
        if over and self._pool.eviction.evict_one(self._waiting):
            self.memory = self._measure_now()

    def _measure_now(self) -> Memory:
        account = self._pool.account
        return msgspec.structs.replace(
            self._measure(), reserved=account.spent + account.prompt_cache.nbytes
        )
