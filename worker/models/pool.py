"""The model pool: the configured models, which of them are loaded, and their memory.

Models are loaded on request (`load_queue`), evicted when other models need their memory and
unloaded when idle (`eviction`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from operator import itemgetter

import msgspec

from protocol.messages import Configure, Loading, ModelSource
from protocol.model_states import ModelState
from protocol.stats import DraftedTokens
from protocol.units import format_bytes
from worker.cache.disk_store import DiskStore
from worker.memory.accounting import KVReservations, MemoryAccount
from worker.memory.budget import UNLIMITED, Budget, return_freed_memory
from worker.memory.device import describe_device
from worker.memory.kv_cost import KVCost
from worker.memory.preparation import PreparationMemory
from worker.models.eviction import Evictor, WaitingRequests
from worker.models.load_queue import LoadQueue, LoadResult
from worker.models.model_config import LoadError, ModelConfig, ModelConfigLoader, cannot_load
from worker.models.states import ModelEntry, describe_state
from worker.models.weight_loader import (
    ONE_PROCESS,
    AnyLoadedModel,
    LoadedEmbedder,
    LoadedModel,
    ModelParts,
)
from worker.selfcheck.check_store import CheckStore

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
# Texts for vectors keep nothing between device calls.
NO_CACHES = KVCost([], 0)


class NoWaitingRequests:
    """The waiting queue while the preloaded models are loaded: empty."""

    def oldest_since(self, model: str) -> float | None:
        return None


class ModelPool:
    """The configured models; iterating gives the loaded ones that generate, in their order.

    `on_loading` gets the progress of `load_all`, `on_loaded` each model that was loaded,
    `on_unloaded` the id of each model that was unloaded. `parts` make what computes a model.
    """

    def __init__(
        self,
        configure: Configure,
        config_loader: ModelConfigLoader,
        budget: Budget = UNLIMITED,
        *,
        disk_store: DiskStore | None = None,
        preparation_memory: PreparationMemory | None = None,
        on_loading: Callable[[Loading], None] = lambda loading: None,
        on_loaded: Callable[[AnyLoadedModel], None] = lambda model: None,
        on_unloaded: Callable[[str], None] = lambda id: None,
        clock: Clock = time.monotonic,
        parts: ModelParts = ONE_PROCESS,
    ) -> None:
        self._configure = configure
        self._config_loader = config_loader
        self._on_loading = on_loading
        self._on_loaded = on_loaded
        self._on_unloaded = on_unloaded
        self._clock = clock
        self._models: dict[str, AnyLoadedModel] = {}
        # Both kinds of them, in their order: each step asks for them several times.
        self._generating: list[LoadedModel] = []
        self._embedders: list[LoadedEmbedder] = []
        self._entries = {
            source.id: ModelEntry(
                source,
                source.pinned,
                config_loader.context_length(source),
                config_loader.defaults(source),
            )
            for source in configure.models
        }
        prompt_cache = parts.make_cache(configure.prompt_cache_bytes, disk_store)
        self.account = MemoryAccount(budget, prompt_cache, preparation_memory)
        self.eviction = Evictor(
            entries=self._entries,
            models=self._models,
            account=self.account,
            unload=self._unload,
            clock=clock,
        )
        device = describe_device()
        self._check_store = CheckStore(
            disk_store.folder if disk_store is not None else None,
            [device.name, device.backend, configure.prefill_step_tokens],
        )
        self.loads = LoadQueue(
            configure,
            entries=self._entries,
            account=self.account,
            make_room=self.eviction.make_room,
            check_store=self._check_store,
            on_loaded=self._add,
            clock=clock,
            parts=parts,
        )

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter(self._generating)

    def __getitem__(self, id: str) -> LoadedModel:
        """The loaded model that generates."""
        return next(model for model in self if model.info.id == id)

    def __contains__(self, id: str) -> bool:
        return id in self._models

    @property
    def embedders(self) -> list[LoadedEmbedder]:
        """The loaded embedding models and rerankers, in the configured order."""
        return self._embedders

    @property
    def sources(self) -> list[ModelSource]:
        """The configured models."""
        return [entry.source for entry in self._entries.values()]

    def states(self) -> list[ModelState]:
        """The current state of every configured model, in the configured order."""
        return [
            describe_state(entry, self._models.get(id), self.loads.load_of(id))
            for id, entry in self._entries.items()
        ]

    # ------------------------------------------------------------ loading

    def load_all(self) -> None:
        """Load the models to preload. A model that fails is recorded as failed.

        Raises:
            LoadError: the first configured model cannot be loaded.
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
        """Load this model as soon as it fits, unless it is loaded or requested already."""
        entry = self._entries[config.id]
        if config.id not in self._models and entry.requested is None:
            entry.request(config)

    def awaiting_memory(self, id: str) -> bool:
        """Whether this model would be loaded if there were memory for it."""
        entry = self._entries[id]
        return entry.requested is not None and entry.awaiting_memory

    def advance_load(self, waiting: WaitingRequests, *, may_begin: bool) -> LoadResult | None:
        """Read one slice of the load in progress, or begin the next one; see `LoadQueue`."""
        return self.loads.advance(waiting, may_begin=may_begin)

    @property
    def has_checks(self) -> bool:
        """Whether the check of a loaded model has not ended."""
        return any(model.check is not None for model in self)

    @property
    def awaiting_rows(self) -> list[str]:
        """The models whose rows keep them from what their check has found."""
        return [model.info.id for model in self if model.awaits_rows]

    def advance_check(self) -> None:
        """Compute a step of the first check that has not ended, of a model without rows before.

        Raises:
            RuntimeError: the device failed.
        """
        pending = [
            (len(model.engine) > 0, model.check)
            for model in self
            if model.check is not None and not model.check.has_ended
        ]
        if pending:
            _, check = min(pending, key=itemgetter(0))
            check.advance()
        self.settle_checks()

    def settle_checks(self) -> None:
        """Apply what checks have found, of models without rows."""
        for model in self:
            if model.check is not None:
                kept_prefixes = model.rules.keeps_prefixes
                model.settle_check()
                if kept_prefixes and not model.rules.keeps_prefixes:
                    self.account.prompt_cache.drop(model.config.content_key)
                self.account.kv[model.info.id].set_alone(model.rules.batching == "none")
                self._free_unused_draft(model)

    def _free_unused_draft(self, model: LoadedModel) -> None:
        """Free a draft model where the check has found that no drafts are verified."""
        draft, speculation = model.info.draft, model.engine.speculation
        if draft is None or speculation is None or model.check or model.rules.verifies_drafts:
            return
        speculation.drop_model()
        problem = f"its draft_model is not used: {model.rules.undrafted}"
        weight_bytes = model.info.weight_bytes - draft.weight_bytes
        problems = [*model.info.problems, problem]
        model.info = msgspec.structs.replace(
            model.info, draft=None, weight_bytes=weight_bytes, problems=problems
        )
        self.account.weight_bytes[model.info.id] = weight_bytes
        return_freed_memory()

    def _load_now(self, source: ModelSource) -> None:
        config = self._config_loader.load(source, download=True)
        if not self.eviction.make_room(config.file_bytes, NoWaitingRequests()):
            needed = format_bytes(config.file_bytes)
            message = f"it needs {needed}, but {self.account.describe()}"
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

    def _add(self, id: str, model: AnyLoadedModel) -> None:
        self._models[id] = model
        self._note_models()
        alone = model.rules.batching == "none"
        if isinstance(model, LoadedModel):
            self.account.kv[id] = KVReservations(model.engine.kv_cost, alone=alone)
            model.engine.grow_within(self.spare_bytes)
        else:
            self.account.kv[id] = KVReservations(NO_CACHES)
        # Its files may not have been on disk at the start, or have changed since.
        entry = self._entries[id]
        entry.context_length, entry.defaults = model.info.context_length, model.config.defaults
        self.mark_used(id)
        self._on_loaded(model)

    def _note_models(self) -> None:
        loaded = [self._models[id] for id in self._entries if id in self._models]
        # A new list: a loop over the old one goes on.
        self._generating = [model for model in loaded if isinstance(model, LoadedModel)]
        self._embedders = [model for model in loaded if isinstance(model, LoadedEmbedder)]

    def take_drafted(self) -> list[DraftedTokens]:
        """The drafted tokens that were verified since this was called last, of all models."""
        speculations = [model.engine.speculation for model in self]
        return [each for s in speculations if s is not None for each in s.take_counts()]

    # ------------------------------------------------------------ memory

    def spare_bytes(self) -> int:
        """The bytes that nothing has reserved and neither the prompt cache nor slack takes."""
        account = self.account
        return account.available_bytes - account.prompt_cache.nbytes - self.slack_bytes

    @property
    def slack_bytes(self) -> int:
        """The bytes of batches beyond what their rows need, which no row has reserved."""
        return sum(model.engine.slack_bytes for model in self)

    def squeeze(self) -> None:
        """Give up the slack of batches where its bytes are reserved by rows."""
        slack_bytes = self.slack_bytes
        if slack_bytes and slack_bytes > self.account.available_bytes:
            for model in self:
                model.engine.squeeze()

    def available_to(self, id: str) -> int:
        """The bytes for this model's KV caches if all models that are not pinned were evicted."""
        return self.account.budget.for_models - self._size_of(id) - self._pinned_beside(id)

    def cannot_fit(self, id: str) -> bool:
        """Whether this model's weights can never fit."""
        return self.available_to(id) < 0

    def explain_shortage(self, id: str) -> str:
        """Why there is not enough memory for this model, in one sentence."""
        needed = f" ({format_bytes(self._size_of(id))})" if id not in self._models else ""
        return f"Not enough memory for {id}{needed}: {self.account.describe()}."

    def _size_of(self, id: str) -> int:
        requested = self._entries[id].requested
        file_bytes = requested.file_bytes if requested is not None else 0
        return self.account.weight_bytes.get(id, file_bytes)

    def _pinned_beside(self, id: str) -> int:
        others = (other for other in self._models if other != id and self._entries[other].pinned)
        return sum(self.account.weight_bytes[other] for other in others)

    # ------------------------------------------------------------ use and unloading

    def mark_used(self, id: str) -> None:
        """Record that this model is used now."""
        self._entries[id].used_at = self._clock()

    def pin(self, id: str, *, pinned: bool) -> None:
        """Pin this model, so that it is never evicted, or unpin it."""
        self._entries[id].pinned = pinned

    def unload(self, id: str, waiting: WaitingRequests) -> bool:
        """Unload this model if it is loaded; False if it is in use or being loaded."""
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
        del self._models[id], self.account.weight_bytes[id], self.account.kv[id]
        self._note_models()
        return_freed_memory()
        self._on_unloaded(id)
