"""Memory pressure: keeps the memory in use below the budget's soft limit.

The memory in use can exceed what is reserved: MLX keeps freed buffers, the C library keeps
freed blocks, and the rest of the process needs memory too. Below the limit, freed memory is
returned once after the last use of a model: an idle process frees nothing by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from protocol.stats import Memory
from worker.memory.budget import Measure, return_freed_memory, used_bytes
from worker.models.eviction import WaitingRequests
from worker.models.pool import ModelPool

# The shortest time between two attempts to free memory, which take time themselves.
PAUSE_S = 1.0
# Memory that the next request would use again is not returned between two turns of a client.
IDLE_RETURN_S = 10.0


class MemoryPressure:
    """Measures at each check; `memory` is the last measurement."""

    def __init__(
        self,
        pool: ModelPool,
        waiting: WaitingRequests,
        measure: Measure,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._waiting = waiting
        self._measure = measure
        self._clock = clock
        self._freed_at = -PAUSE_S
        # Up to which use of a model freed memory is returned.
        self._returned_of = 0.0
        self.memory = self._measure_now()

    def check(self) -> bool:
        """Free memory above the soft limit; returns whether the whole budget is in use."""
        account = self._pool.account
        account.fit_prompt_cache(self._pool.slack_bytes)
        account.preparation.publish(account.available_bytes)
        now = self._clock()
        self._return_if_idle(now)
        self.memory = self._measure_now()
        if self._excess_bytes <= 0:
            return False
        if now >= self._freed_at + PAUSE_S:
            self._freed_at = now
            self._free()
        return self._used_bytes >= account.budget.limit

    def next_return_at(self) -> float | None:
        """When freed memory is returned if all models stay unused; None if it is returned."""
        used_at = self._pool.eviction.last_used_at()
        if used_at is None or used_at <= self._returned_of:
            return None
        return used_at + IDLE_RETURN_S

    def _return_if_idle(self, now: float) -> None:
        due = self.next_return_at()
        if due is not None and now >= due:
            self._returned_of = now
            return_freed_memory()

    @property
    def _excess_bytes(self) -> int:
        return self._used_bytes - self._pool.account.budget.soft_limit

    @property
    def _used_bytes(self) -> int:
        """What this process and the preparation processes use."""
        return used_bytes(self.memory) + self._pool.account.preparation.reserved_bytes

    def _free(self) -> None:
        """Return freed memory first, then shrink the prompt cache, then evict an idle model."""
        account = self._pool.account
        return_freed_memory()
        self.memory = self._measure_now()
        if self._excess_bytes > 0 and account.prompt_cache.nbytes:
            account.shrink_prompt_cache(self._excess_bytes)
            return_freed_memory()
            self.memory = self._measure_now()
        if self._excess_bytes > 0 and self._pool.eviction.evict_one(self._waiting):
            self.memory = self._measure_now()

    def _measure_now(self) -> Memory:
        account = self._pool.account
        return msgspec.structs.replace(
            self._measure(),
            reserved=account.reserved_bytes + account.prompt_cache.nbytes,
            preparation=account.preparation.reserved_bytes,
        )
