"""Keeps memory in use below the budget's marks: first what is cached goes, then idle models.

What is in use can be more than what was promised: buffers that MLX keeps, blocks
that the C library has not returned, whatever else the process needs.
"""

from __future__ import annotations

import time

import msgspec

from protocol.messages import Memory
from worker.line import Line
from worker.memory import Measure, release, used
from worker.pool import Pool

# Returning memory takes time itself: not at every step.
PAUSE_S = 1.0


class Relief:
    """Measures after each step; `memory` is what it found last."""

    def __init__(self, pool: Pool, line: Line, measure: Measure) -> None:
        self._pool = pool
        self._line = line
        self._measure = measure
        self._relieved_at = -PAUSE_S
        self.memory = self._look()

    def relieve(self) -> bool:
        """Give up what can be past the soft mark; whether the budget itself is reached."""
        ledger = self._pool.ledger
        ledger.settle()
        self.memory = self._look()
        now = time.monotonic()
        if used(self.memory) > ledger.budget.soft_mark and now >= self._relieved_at + PAUSE_S:
            self._relieved_at = now
            self._give_up()
        return used(self.memory) >= ledger.budget.limit

    def _give_up(self) -> None:
        """Freed memory first, then the prompt cache, then an idle model."""
        ledger = self._pool.ledger
        release()
        self.memory = self._look()
        over = used(self.memory) - ledger.budget.soft_mark
        if over > 0 and ledger.prompt_cache.nbytes:
            ledger.give_up(over)
            release()
            self.memory = self._look()
        if used(self.memory) > ledger.budget.soft_mark and self._pool.spare_one(self._line):
            self.memory = self._look()

    def _look(self) -> Memory:
        ledger = self._pool.ledger
        return msgspec.structs.replace(
            self._measure(), reserved=ledger.spent + ledger.prompt_cache.nbytes
        )
