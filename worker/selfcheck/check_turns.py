"""When the checks of loaded models go on that have not ended during the load."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

# Of the time while requests run or wait: a server that is never idle finds out, too, what its
# models' rows may share, and until then computes every prompt as a whole.
CHECK_SHARE = 0.1


class CheckedModels(Protocol):
    """The loaded models."""

    @property
    def has_checks(self) -> bool:
        """Whether the check of one has not ended."""

    def advance_check(self) -> None:
        """Compute a step of a check."""

    def settle_checks(self) -> None:
        """Apply what checks have found."""


class CheckTurns:
    """Computes the checks' steps: one after the other while nothing else is to do, else a share.

    `begin_call` is called before each step. `clock` returns monotonic time in seconds.
    """

    def __init__(
        self,
        pool: CheckedModels,
        begin_call: Callable[..., None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._begin_call = begin_call
        self._clock = clock
        self._due_at = 0.0

    def advance(self, *, is_idle: bool) -> None:
        """Compute a step of a check, if one is due.

        Raises:
            RuntimeError: the device failed.
        """
        self._pool.settle_checks()
        began_at = self._clock()
        if not self._pool.has_checks or (began_at < self._due_at and not is_idle):
            return
        self._begin_call(loading=True)
        self._pool.advance_check()
        ended_at = self._clock()
        self._due_at = ended_at + (ended_at - began_at) * (1 / CHECK_SHARE - 1)
