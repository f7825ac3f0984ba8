"""The model pool: the configured models, which of them are loaded, and their memory.

Models are loaded on request (`load_queue`), evicted when others need their memory and
unloaded when idle (`eviction`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from protocol.messages import Configure, Loading, ModelSource, ModelState
from protocol.units import format_bytes
from worker.cache.disk_store import DiskStore
from worker.cache.prefix_cache import PrefixCache
from worker.memory.accounting import KVReservations, MemoryAccount
from worker.memory.budget import UNLIMITED, Budget, release
from worker.models.eviction import Evictor, WaitingRequests
from worker.models.load_queue import LoadQueue, LoadResult
from worker.models.model_config import LoadError, ModelConfig, ModelConfigLoader, cannot_load
from worker.models.states import ModelEntry, describe_state
from worker.models.weight_loader import LoadedModel

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


class NoWaitingRequests:
    """The waiting queue at the start: empty."""

    def oldest_since(self, model: str) -> float | None:
        return None


class ModelPool:
    """The configured models; iterating gives the loaded ones, in the configured order.

    `on_loading` is told of progress at the start, `on_loaded` and `on_unloaded` of each
    model that comes and goes.
    """

    def __init__(
        self,
        configure: Configure,
        config_loader: ModelConfigLoader,
        budget: Budget = UNLIMITED,
        *,
        disk_store: DiskStore | None = None,
        on_loading: Callable[[Loading], None] = lambda loading: None,
        on_loaded: Callable[[LoadedModel], None] = lambda model: None,
        on_unloaded: Callable[[str], None] = lambda id: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._configure = configure
        self._config_loader = config_loader
        self._on_loading = on_loading
        self._on_loaded = on_loaded
        self._on_unloaded = on_unloaded
        self._clock = clock
        self._models: dict[str, LoadedModel] = {}
        self._entries = {s.id: ModelEntry(s, s.pinned) for s in configure.models}
        prompt_cache = PrefixCache(configure.prompt_cache_bytes, disk_store)
        self.account = MemoryAccount(budget, prompt_cache)
        self.eviction = Evictor(self._entries, self._models, self.account, self._unload, clock)
        self.loads = LoadQueue(
            configure, self._entries, self.account, self.eviction.make_room, self._add, clock
        )

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter([self._models[id] for id in self._entries if id in self._models])

    def __getitem__(self, id: str) -> LoadedModel:
        return self._models[id]

    def __contains__(self, id: str) -> bool:
        return id in self._models

    @property
    def sources(self) -> list[ModelSource]:
        """The configured models."""
        return [entry.source for entry in self._entries.values()]

    def states(self) -> list[ModelState]:
        """All configured models as they are now."""
        return [
            describe_state(entry, self._models.get(id), self.loads.load_of(id))
            for id, entry in self._entries.items()
        ]

    # ------------------------------------------------------------ loading

    def load_all(self) -> None:
        """Load what is configured to be there from the start.

        Raises:
            LoadError: the first of the configured models cannot be loaded.
        """
        preload = self._configure.preload
        for source in self._configure.models:
            if preload is not None and source.id not in preload:
                continue
            try:
                self._load_now(source)
            except LoadError as error:
                if source.id == self._configure.models[0].id:
                    raise
                logger.error("%s", error)
                self.loads.fail(source.id, str(error))

    def request_load(self, config: ModelConfig) -> None:
        """Load this model when there is room, unless it is loaded or requested."""
        entry = self._entries[config.id]
        if config.id not in self._models and entry.requested is None:
            entry.request(config)

    def awaiting_memory(self, id: str) -> bool:
        """Whether this model would be loaded if there were memory for it."""
        entry = self._entries[id]
        return entry.requested is not None and entry.awaiting_memory

    def advance_load(self, waiting: WaitingRequests, *, may_begin: bool) -> LoadResult | None:
        """One slice of the load in progress, or the next load; returns a load that ended."""
        return self.loads.advance(waiting, may_begin=may_begin)

    def _load_now(self, source: ModelSource) -> None:
        config = self._config_loader.load(source, download=True)
        if not self.eviction.make_room(config.file_bytes, NoWaitingRequests()):
            needed = format_bytes(config.file_bytes)
            message = f"it takes {needed}, and {self.account.describe()}"
            raise cannot_load(source.id, MemoryError(message))
        self.request_load(config)
        load = self.loads.begin(config)
        reported_bytes = -1
        while self.loads.current is not None:
            done_bytes, total_bytes = load.done_bytes, load.total_bytes
            if reported_bytes < done_bytes < total_bytes:
                self._on_loading(Loading(source.id, done_bytes, total_bytes))
                reported_bytes = done_bytes
            if (reason := self.loads.read_slice(load)) is not None:
                raise LoadError(reason)
        total = self._models[source.id].info.weight_bytes
        self._on_loading(Loading(source.id, total, total))

    def _add(self, id: str, model: LoadedModel) -> None:
        self._models[id] = model
        self.account.kv[id] = KVReservations(model.engine.kv_cost)
        self.mark_used(id)
        self._on_loaded(model)

    # ------------------------------------------------------------ memory

    def available_to(self, id: str) -> int:
        """The bytes its sequences could have if every evictable model were evicted."""
        return self.account.budget.for_models - self._size_of(id) - self._pinned_beside(id)

    def cannot_fit(self, id: str) -> bool:
        """Whether this model's weights can never fit."""
        return self.available_to(id) < 0

    def explain_shortage(self, id: str) -> str:
        """What holds the memory that this model needs, in one sentence."""
        need = f" ({format_bytes(self._size_of(id))})" if id not in self._models else ""
        return f"Not enough memory for {id}{need}: {self.account.describe()}."

    def _size_of(self, id: str) -> int:
        requested = self._entries[id].requested
        return self.account.weights.get(id, requested.file_bytes if requested is not None else 0)

    def _pinned_beside(self, id: str) -> int:
        others = (other for other in self._models if other != id and self._entries[other].pinned)
        return sum(self.account.weights[other] for other in others)

    # ------------------------------------------------------------ use and unloading

    def mark_used(self, id: str) -> None:
        """This model was used now."""
        self._entries[id].used_at = self._clock()

    def pin(self, id: str, *, pinned: bool) -> None:
        """Never evict this model once it is loaded, or let it be evicted again."""
        self._entries[id].pinned = pinned

    def unload(self, id: str, waiting: WaitingRequests) -> bool:
        """Free this model's memory, if it has any; False if the model is in use."""
        if self.loads.load_of(id) is not None:
            return False
        if id in self._models:
            if self.eviction.is_busy(id, waiting):
                return False
            self._unload(id)
        self._entries[id].clear()
        return True

    def _unload(self, id: str) -> None:
        self.account.prompt_cache.drop(self._models[id].config.content_key)
        del self._models[id], self.account.weights[id], self.account.kv[id]
        release()
        self._on_unloaded(id)
