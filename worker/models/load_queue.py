"""The load state machine: requested, awaiting memory, loading, loaded or failed.

One model is loaded at a time, one slice a call, so that the engine core can step the loaded
models in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from protocol.messages import Configure
from protocol.units import format_bytes
from worker.memory.accounting import MemoryAccount
from worker.memory.budget import return_freed_memory
from worker.models.eviction import WaitingRequests
from worker.models.model_config import ModelConfig, cannot_load
from worker.models.states import ModelEntry
from worker.models.weight_loader import (
    ONE_PROCESS,
    AnyLoadedModel,
    EmbeddingLoad,
    ModelParts,
    WeightLoad,
)
from worker.selfcheck.check_store import CheckStore

logger = logging.getLogger(__name__)

# After a failed load, requests are rejected for this time; then the next one loads again.
RETRY_S = 10.0

AnyLoad = WeightLoad | EmbeddingLoad
MakeRoom = Callable[[int, WaitingRequests, float | None], bool]


class LoadResult(NamedTuple):
    """A load that ended; `reason` says why it failed."""

    model: str
    reason: str | None


class LoadQueue:
    """The loads of one pool; `on_loaded` gets each model once it is loaded."""

    def __init__(
        self,
        configure: Configure,
        *,
        entries: Mapping[str, ModelEntry],
        account: MemoryAccount,
        make_room: MakeRoom,
        check_store: CheckStore,
        on_loaded: Callable[[str, AnyLoadedModel], None],
        clock: Callable[[], float],
        parts: ModelParts = ONE_PROCESS,
    ) -> None:
        self._configure = configure
        self._entries = entries
        self._account = account
        self._make_room = make_room
        self._check_store = check_store
        self._on_loaded = on_loaded
        self._clock = clock
        self._parts = parts
        self.current: AnyLoad | None = None

    def load_of(self, id: str) -> AnyLoad | None:
        """The load in progress of this model, if any."""
        load = self.current
        return load if load is not None and load.config.id == id else None

    def drop_request(self, id: str) -> None:
        """Drop the request for this model; a load in progress goes on."""
        if self.load_of(id) is None:
            self._entries[id].requested = None

    def drop_unwanted(self, is_wanted: Callable[[str], object]) -> None:
        """Drop the requests for models that are no longer wanted; loads in progress go on."""
        for id, entry in self._entries.items():
            if entry.requested is not None and not is_wanted(id):
                self.drop_request(id)

    def advance(self, waiting: WaitingRequests, *, may_begin: bool) -> LoadResult | None:
        """Read one slice of the load in progress, or begin the next load if `may_begin`.

        Returns the result of a load that ended with this call, else None.
        """
        if (load := self.current) is None:
            self._begin_next(waiting, may_begin=may_begin)
            return None
        reason = self.read_slice(load)
        return LoadResult(load.config.id, reason) if self.current is None else None

    def begin(self, config: ModelConfig) -> AnyLoad:
        """Begin a load and reserve the memory for its weights."""
        logger.info("loading %s", config.id)
        self._entries[config.id].awaiting_memory = False
        self._account.weight_bytes[config.id] = config.file_bytes
        if config.texts is not None:
            self.current = EmbeddingLoad(config, self._configure)
        else:
            self.current = WeightLoad(
                config,
                self._configure,
                self._account.prompt_cache,
                self._check_store,
                self._parts,
            )
        return self.current

    def read_slice(self, load: AnyLoad) -> str | None:
        """Read one slice; returns the reason if the load failed."""
        id = load.config.id
        try:
            if load.advance():
                self._finish(id, load.finish())
            self._account.weight_bytes[id] = load.total_bytes
            if self._account.available_bytes < 0:
                raise MemoryError(f"it needs {format_bytes(load.total_bytes)} of memory")
        except (Exception, SystemExit) as error:
            # Damaged or unknown files raise many errors, and mlx-lm's code of some models ends
            # the process; the other models keep serving.
            logger.exception("%s cannot be loaded", id)
            self.current = None
            self.fail(id, str(cannot_load(id, error)))
            return_freed_memory()
            return self._entries[id].reason
        return None

    def fail(self, id: str, reason: str) -> None:
        """Record that loading this model failed, and release its memory reservation."""
        self._account.weight_bytes.pop(id, None)
        self._entries[id].fail(reason, self._clock())

    def failure_of(self, id: str) -> str | None:
        """The reason of this model's last failed load, while it is too recent to retry."""
        entry = self._entries[id]
        if entry.failed_at is None or self._clock() - entry.failed_at > RETRY_S:
            return None
        return entry.reason

    def _begin_next(self, waiting: WaitingRequests, *, may_begin: bool) -> None:
        requested = [e.requested for e in self._entries.values() if e.requested is not None]
        for config in sorted(requested, key=lambda c: waiting.oldest_since(c.id) or 0.0):
            since = waiting.oldest_since(config.id)
            if may_begin and self._make_room(config.file_bytes, waiting, since):
                self.begin(config)
                return
            self._entries[config.id].awaiting_memory = True

    def _finish(self, id: str, model: AnyLoadedModel) -> None:
        self.current = None
        entry = self._entries[id]
        entry.requested = entry.failed_at = None
        # What the check has left.
        return_freed_memory()
        self._on_loaded(id, model)
