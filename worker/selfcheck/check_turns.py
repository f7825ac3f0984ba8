"""When the checks of loaded models go on that have not ended during the load, and are applied."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

# Of the time while requests run or wait: a server that is never idle finds out, too, what its
# models' rows may share, and until then computes every prompt as a whole.
CHECK_SHARE = 0.1
# How long rows may keep a model from what its check has found. Most answers end before; those
# that do not are computed anew, once after a load.
ROWS_WAIT_S = 2.0


class CheckedModels(Protocol):
    """The loaded models."""

    @property
    def has_checks(self) -> bool:
        """Whether the check of one has not ended."""

    @property
    def awaiting_rows(self) -> Sequence[str]:
        """The models whose rows keep them from what their check has found."""

    def advance_check(self) -> None:
        """Compute a step of a check."""

    def settle_checks(self) -> None:
        """Apply what checks have found, of models without rows."""


class CheckTurns:
    """Computes the checks' steps: one after the other while nothing else is to do, else a share.

    `preempt_rows` queues the requests of a model again where they keep what was found waiting for
    `ROWS_WAIT_S`. `begin_call` is called before each step. `clock` returns monotonic time in
    seconds.
    """

    def __init__(
        self,
        pool: CheckedModels,
        preempt_rows: Callable[[str], None],
        begin_call: Callable[..., None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._preempt_rows = preempt_rows
        self._begin_call = begin_call
        self._clock = clock
        self._due_at = 0.0
        # When what was found of each model began to wait for its rows.
        self._waits_since: dict[str, float] = {}

    def advance(self, *, is_idle: bool) -> None:
        """Compute a step of a check, if one is due.

        Raises:
            RuntimeError: the device failed.
        """
        if not self._pool.has_checks:
            self._waits_since.clear()
            return
        began_at = self._clock()
        self._end_long_waits(began_at)
        self._pool.settle_checks()
        if began_at < self._due_at and not is_idle:
            return
        self._begin_call(loading=True)
        self._pool.advance_check()
        ended_at = self._clock()
        self._due_at = ended_at + (ended_at - began_at) * (1 / CHECK_SHARE - 1)

    def _end_long_waits(self, now: float) -> None:
        """Preempt the rows of models that have kept what was found of them waiting."""
        since = self._waits_since
        self._waits_since = {id: since.get(id, now) for id in self._pool.awaiting_rows}
        for id, waits_since in self._waits_since.items():
            if now - waits_since >= ROWS_WAIT_S:
                self._preempt_rows(id)
