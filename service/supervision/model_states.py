"""Which models are loaded, as the worker tells it, and what an operator orders of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import msgspec

from protocol.messages import (
    CommandResult,
    Configure,
    Load,
    ModelInfo,
    ModelsChanged,
    ModelState,
    Pin,
    ToWorker,
    Unload,
)
from service.errors import WorkerUnavailable
from service.supervision.refusals import error_for_code

Send = Callable[[ToWorker], None]


class ModelStates:
    """The configured models by id, in their order; a worker's death changes what is loaded."""

    def __init__(self, configure: Configure, send: Send) -> None:
        self._send = send
        self._states = {s.id: ModelState(s.id, "unloaded", s.pinned) for s in configure.models}
        self._infos: dict[str, ModelInfo] = {}
        self._begin_with = configure.preload
        self._tickets = itertools.count(1)
        self._orders: dict[int, asyncio.Future[None]] = {}

    @property
    def states(self) -> list[ModelState]:
        """All models as they are now; `info` is what the last load decided."""
        return [
            msgspec.structs.replace(state, info=self._infos.get(state.id))
            for state in self._states.values()
        ]

    @property
    def infos(self) -> list[ModelInfo]:
        """What loading decided, for each model that was loaded once."""
        return list(self._infos.values())

    def state(self, id: str) -> ModelState:
        """One model as it is now."""
        return msgspec.structs.replace(self._states[id], info=self._infos.get(id))

    @property
    def loaded_bytes(self) -> int:
        """What the weights of the loaded models take."""
        return sum(state.bytes for state in self._states.values() if state.status == "loaded")

    # ------------------------------------------------------------ what the supervisor tells

    def note(self, message: ModelsChanged | CommandResult) -> None:
        """The worker told what is loaded, or what became of an order."""
        match message:
            case ModelsChanged(models):
                self._states = {state.id: state for state in models}
                self._infos |= {state.id: state.info for state in models if state.info}
            case CommandResult(ticket, code, reason):
                if (order := self._orders.pop(ticket, None)) is not None and not order.done():
                    self._settle(order, code, reason or "")

    def lose(self) -> None:
        """The worker is gone: the next one is to have what was loaded, and no order is carried out.

        One that dies before it is ready leaves that as it was.
        """
        loaded = [state.id for state in self._states.values() if state.status == "loaded"]
        if loaded:
            self._begin_with = loaded
        self._states = {
            id: ModelState(id, "unloaded", state.pinned) for id, state in self._states.items()
        }
        for order in self._orders.values():
            if not order.done():
                order.set_exception(WorkerUnavailable("The worker ended.", code="restarting"))
        self._orders.clear()

    def to_begin_with(self, configure: Configure) -> Configure:
        """What the next worker is told: what to load before it is ready, what is pinned now."""
        models = [
            msgspec.structs.replace(source, pinned=self._states[source.id].pinned)
            for source in configure.models
        ]
        return msgspec.structs.replace(configure, models=models, preload=self._begin_with)

    # ------------------------------------------------------------ orders

    async def load(self, id: str) -> None:
        """Have this model loaded, and wait until it is.

        Raises:
            ModelLoadFailed: it cannot be.
            InsufficientMemory: there was no room for it in its time.
        """
        await self._order(Load(next(self._tickets), id))

    async def unload(self, id: str) -> None:
        """Have this model's memory given back.

        Raises:
            ModelBusy: it has requests.
        """
        await self._order(Unload(next(self._tickets), id))

    async def pin(self, id: str, *, pinned: bool) -> None:
        """Never have this model evicted, or let it be evicted again."""
        await self._order(Pin(next(self._tickets), id, pinned))

    async def _order(self, order: Load | Unload | Pin) -> None:
        answered = asyncio.get_running_loop().create_future()
        self._orders[order.ticket] = answered
        self._send(order)
        try:
            await answered
        finally:
            self._orders.pop(order.ticket, None)

    def _settle(self, order: asyncio.Future[None], code: str | None, reason: str) -> None:
        if code is None:
            order.set_result(None)
        else:
            order.set_exception(error_for_code(code, reason))
