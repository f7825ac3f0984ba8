"""The state of every configured model, and the commands that change it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import msgspec

from protocol.messages import CommandResult, Configure, Load, ModelsChanged, Pin, ToWorker, Unload
from protocol.model_states import ModelInfo, ModelState
from service.errors import WorkerUnavailable
from service.supervision.refusals import error_for_code

Send = Callable[[ToWorker], None]


class ModelStates:
    """The configured models by id, in their configured order."""

    def __init__(self, configure: Configure, send: Send) -> None:
        self._send = send
        self._states = {
            model.id: unloaded(model.id, pinned=model.pinned) for model in configure.models
        }
        self._infos: dict[str, ModelInfo] = {}
        self._preload = configure.preload
        self._tickets = itertools.count(1)
        self._pending: dict[int, asyncio.Future[None]] = {}

    @property
    def states(self) -> list[ModelState]:
        """The current states of all models; `info` is of the last load."""
        return [
            msgspec.structs.replace(state, info=self._infos.get(state.id))
            for state in self._states.values()
        ]

    @property
    def infos(self) -> list[ModelInfo]:
        """The info of each model that was ever loaded."""
        return list(self._infos.values())

    def state(self, id: str) -> ModelState:
        """The current state of one model."""
        return msgspec.structs.replace(self._states[id], info=self._infos.get(id))

    @property
    def loaded_bytes(self) -> int:
        """The size of the weights of all loaded models."""
        return sum(state.bytes for state in self._states.values() if state.status == "loaded")

    # ------------------------------------------------------------ called by the supervisor

    def update(self, message: ModelsChanged | CommandResult) -> None:
        """Store new model states, or complete a command."""
        match message:
            case ModelsChanged(models):
                self._states = {state.id: state for state in models}
                self._infos |= {state.id: state.info for state in models if state.info}
            case CommandResult(ticket=ticket, code=code, message=reason):
                result = self._pending.pop(ticket, None)
                if result is not None and not result.done():
                    set_result(result, code, reason or "")

    def handle_lost_worker(self) -> None:
        """Mark all models unloaded and fail all commands.

        The next worker loads what was loaded. If the lost worker had loaded no model, the
        next one loads the same models as that one should have.
        """
        loaded = [state.id for state in self._states.values() if state.status == "loaded"]
        if loaded:
            self._preload = loaded
        self._states = {
            id: msgspec.structs.replace(
                unloaded(id, pinned=state.pinned, context_length=state.context_length),
                defaults=state.defaults,
            )
            for id, state in self._states.items()
        }
        for result in self._pending.values():
            if not result.done():
                result.set_exception(WorkerUnavailable("The worker exited.", code="restarting"))
        self._pending.clear()

    def next_configure(self, configure: Configure) -> Configure:
        """`configure` for the next worker, with the models to preload and the pinned models."""
        models = [
            msgspec.structs.replace(source, pinned=self._states[source.id].pinned)
            for source in configure.models
        ]
        return msgspec.structs.replace(configure, models=models, preload=self._preload)

    # ------------------------------------------------------------ commands

    async def load(self, id: str) -> None:
        """Load a model, and wait until it is loaded.

        Raises:
            ModelLoadFailed: the model cannot be loaded.
            InsufficientMemory: memory did not become free in time.
            WorkerUnavailable: the worker exited first.
        """
        await self._run(Load(next(self._tickets), id))

    async def unload(self, id: str) -> None:
        """Unload a model.

        Raises:
            ModelBusy: the model has requests.
            WorkerUnavailable: the worker exited first.
        """
        await self._run(Unload(next(self._tickets), id))

    async def pin(self, id: str, *, pinned: bool) -> None:
        """Set whether a model is pinned; a pinned model is never evicted.

        Raises:
            WorkerUnavailable: the worker exited first.
        """
        await self._run(Pin(next(self._tickets), id, pinned))

    async def _run(self, command: Load | Unload | Pin) -> None:
        result = asyncio.get_running_loop().create_future()
        self._pending[command.ticket] = result
        self._send(command)
        try:
            await result
        finally:
            self._pending.pop(command.ticket, None)


def unloaded(id: str, *, pinned: bool, context_length: int | None = None) -> ModelState:
    """The state of a model that no worker has loaded."""
    return ModelState(id=id, status="unloaded", pinned=pinned, context_length=context_length)


def set_result(result: asyncio.Future[None], code: str | None, reason: str) -> None:
    """Complete a command; `code` is None if it succeeded."""
    if code is None:
        result.set_result(None)
    else:
        result.set_exception(error_for_code(code, reason))
