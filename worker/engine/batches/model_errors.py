"""Errors of a model's own code, which are not the device's.

The device's state is known after them: they are raised before anything is computed. So the
rows that were in the call can be computed anew. mlx raises `RuntimeError` or `MemoryError`
where the device fails; the process ends then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MODEL_ERRORS: tuple[type[BaseException], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    # These two are kinds of RuntimeError.
    NotImplementedError,
    RecursionError,
    # A model's file may end the process.
    SystemExit,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class FailedCall:
    """A call of the model that raised; `uids` are the rows in it, whose caches are dropped."""

    uids: Collection[int]
    error: BaseException


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that was in a call of the model that raised. It is not in the engine any more."""

    id: int
    error: BaseException

    @property
    def reason(self) -> str:
        """The error's type and message."""
        return describe_error(self.error)


@dataclass(slots=True)
class Attempt:
    """One call of a model; `failed` is set where it raised."""

    failed: bool = False


class FailedCalls:
    """Records the calls of one model that raise one of `MODEL_ERRORS`."""

    def __init__(self) -> None:
        self._calls: list[FailedCall] = []

    @contextmanager
    def attempt(self, uids: Collection[int]) -> Iterator[Attempt]:
        """Record an error within the block, which computes these rows; the block ends there."""
        attempt = Attempt()
        try:
            yield attempt
        except MODEL_ERRORS as error:
            attempt.failed = True
            self._calls.append(FailedCall(uids, error))

    def take(self) -> list[FailedCall]:
        """Remove and return the calls that failed since the last call of this method."""
        calls, self._calls = self._calls, []
        return calls


def describe_error(error: BaseException) -> str:
    """The error's type and message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
