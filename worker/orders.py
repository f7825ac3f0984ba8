"""What an operator asks of the pool: load, unload, pin; each is owed one answer."""

from __future__ import annotations

from collections.abc import Callable

from protocol.messages import Done, Load, Pin, Unload
from worker.desk import Desk
from worker.line import Line
from worker.pool import Pool

MODEL_BUSY = "model_busy"
INSUFFICIENT_MEMORY = "insufficient_memory"

Order = Load | Unload | Pin


class Orders:
    """Carries orders out, and answers each by its ticket."""

    def __init__(
        self,
        pool: Pool,
        line: Line,
        desk: Desk,
        answer: Callable[[Done], None],
        *,
        wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._line = line
        self._desk = desk
        self._answer = answer
        self._wait_s = wait_s
        self._clock = clock
        self._loads: dict[str, list[int]] = {}
        self._asked_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._loads)

    def __contains__(self, model: str) -> bool:
        return model in self._loads

    def take(self, order: Order) -> None:
        """Carry it out, or begin to."""
        match order:
            case Load(ticket, model):
                self._begin_load(ticket, model)
            case Unload(ticket, model):
                self._answer(self._unload(ticket, model))
            case Pin(ticket, model, pinned):
                self._pool.pin(model, pinned=pinned)
                self._answer(Done(ticket))

    def _begin_load(self, ticket: int, model: str) -> None:
        if model in self._pool:
            self._answer(Done(ticket))
            return
        self._loads.setdefault(model, []).append(ticket)
        self._asked_at.setdefault(model, self._clock())
        self._desk.open(model)

    def end_load(self, model: str, code: str | None = None, reason: str | None = None) -> None:
        """This model is loaded, or it cannot be: tell who ordered it."""
        self._asked_at.pop(model, None)
        for ticket in self._loads.pop(model, ()):
            self._answer(Done(ticket, code, reason))

    def expire(self) -> None:
        """Tell who ordered a load that has not begun in its time for want of memory."""
        for model, asked_at in list(self._asked_at.items()):
            if self._clock() >= asked_at + self._wait_s and not self._pool.is_loading(model):
                self.end_load(model, INSUFFICIENT_MEMORY, self._pool.short_of_memory(model))
                if self._line.head(model) is None:
                    self._pool.forget_want(model)

    def _unload(self, ticket: int, model: str) -> Done:
        if not self._pool.unload(model, self._line):
            return Done(ticket, MODEL_BUSY, f"{model} is in use, or is being loaded.")
        self._desk.close(model)
        return Done(ticket)
