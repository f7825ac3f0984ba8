"""Which models are resident: loaded when wanted, evicted when others are, unloaded when idle.

One model is loaded at a time, a slice a call, so that the loop steps the others
between. What is evicted is the least recently used idle model, never a busy or a
pinned one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from protocol.messages import Configure, Loading, ModelSource, ModelState
from worker.adapters import AdapterRegistry
from worker.blueprint import Blueprint, Draughtsman, LoadError, cannot_load
from worker.cache import PromptCache
from worker.cache_files import CacheFiles
from worker.ledger import Ledger, Rows, in_units
from worker.loading import ResidentModel, WeightLoad
from worker.memory import Budget, release

__all__ = ["LoadError", "Pool", "ResidentModel"]

logger = logging.getLogger(__name__)

UNLIMITED = Budget(limit=1 << 62, base=0, prefill=0)
# A model that could not be loaded is tried again for a request that comes after this time.
RETRY_S = 10.0

Announce = Callable[[Loading], None]
Clock = Callable[[], float]


class Line(Protocol):
    """Who waits: what the pool asks before it evicts."""

    def waits_since(self, id: str) -> float | None:
        """Since when the longest waiting request waits for this model; None if none does."""


class Nobody:
    """No request waits, as when the worker starts."""

    def waits_since(self, id: str) -> float | None:
        return None


@dataclass(slots=True)
class Entry:
    """One configured model now. `wanted` is set while it is to be loaded, `short` while it
    waits for memory.
    """

    source: ModelSource
    pinned: bool
    wanted: Blueprint | None = None
    short: bool = False
    reason: str | None = None
    failed_at: float | None = None
    used_at: float = 0.0


class Ended(NamedTuple):
    """A load that came to its end; `reason` says why it failed."""

    model: str
    reason: str | None


class Pool:
    """The configured models; iterating gives those that are resident, in the configured order."""

    def __init__(
        self,
        configure: Configure,
        adapters: AdapterRegistry,
        announce: Announce,
        budget: Budget = UNLIMITED,
        clock: Clock = time.monotonic,
        files: CacheFiles | None = None,
    ) -> None:
        self._configure = configure
        self._announce = announce
        self._clock = clock
        self._models: dict[str, ResidentModel] = {}
        self._entries = {s.id: Entry(s, s.pinned) for s in configure.models}
        self._load: WeightLoad | None = None
        self.draughtsman = Draughtsman(adapters, configure.context_limit_tokens)
        self.ledger = Ledger(budget, PromptCache(configure.prompt_cache_bytes, files))
        self.on_drop: Callable[[str], None] = lambda id: None

    def __iter__(self) -> Iterator[ResidentModel]:
        return iter([self._models[id] for id in self._entries if id in self._models])

    def __getitem__(self, id: str) -> ResidentModel:
        return self._models[id]

    def __contains__(self, id: str) -> bool:
        return id in self._models

    @property
    def sources(self) -> list[ModelSource]:
        """The configured models."""
        return [entry.source for entry in self._entries.values()]

    @property
    def loading(self) -> bool:
        """Whether a load is under way."""
        return self._load is not None

    def is_loading(self, id: str) -> bool:
        """Whether it is this model's."""
        return self._load is not None and self._load.blueprint.id == id

    def is_short(self, id: str) -> bool:
        """Whether this model would be loaded if there were memory for it."""
        return self._entries[id].wanted is not None and self._entries[id].short

    # ------------------------------------------------------------ at the start

    def load_all(self) -> None:
        """Load what is configured to be there from the start.

        Raises:
            LoadError: the first of the configured models cannot be loaded.
        """
        for source in self._to_begin_with():
            try:
                self._load_at_once(source)
            except LoadError as error:
                if source.id == self._configure.models[0].id:
                    raise
                logger.error("%s", error)
                self._note_failure(source.id, str(error))

    def _to_begin_with(self) -> list[ModelSource]:
        preload = self._configure.preload
        return [s for s in self._configure.models if preload is None or s.id in preload]

    def _load_at_once(self, source: ModelSource) -> None:
        blueprint = self.draughtsman.draw(source, download=True)
        if not self.make_room(blueprint.file_bytes, Nobody()):
            needed = in_units(blueprint.file_bytes)
            message = f"it takes {needed}, and {self.ledger.describe()}"
            raise cannot_load(source.id, MemoryError(message))
        self.want(blueprint)
        self._begin(blueprint)
        told_bytes = -1
        while self._load is not None:
            done_bytes, total_bytes = self._load.done_bytes, self._load.total_bytes
            if told_bytes < done_bytes < total_bytes:
                self._announce(Loading(source.id, done_bytes, total_bytes))
                told_bytes = done_bytes
            if (reason := self._continue(self._load)) is not None:
                raise LoadError(reason)
        total = self._models[source.id].info.weight_bytes
        self._announce(Loading(source.id, total, total))

    # ------------------------------------------------------------ loading

    def want(self, blueprint: Blueprint) -> None:
        """Load this model when there is room, unless it is there."""
        entry = self._entries[blueprint.id]
        if blueprint.id not in self._models and entry.wanted is None:
            entry.wanted = blueprint
            entry.short, entry.reason = False, None

    def forget_unwanted(self, wanted: Callable[[str], object]) -> None:
        """Whoever waited for these models has left; a load that has begun goes on."""
        for id, entry in self._entries.items():
            if entry.wanted is not None and not wanted(id):
                self.forget_want(id)

    def forget_want(self, id: str) -> None:
        """Nobody waits for this model any more; a load that has begun goes on."""
        if not self.is_loading(id):
            self._entries[id].wanted = None

    def advance(self, line: Line, *, may_begin: bool) -> Ended | None:
        """Read one slice, or begin the next load if it `may_begin`; a load that ended by it."""
        if (load := self._load) is None:
            self._begin_next(line, may_begin=may_begin)
            return None
        reason = self._continue(load)
        return Ended(load.blueprint.id, reason) if self._load is None else None

    def _begin_next(self, line: Line, *, may_begin: bool) -> None:
        wanted = [e.wanted for e in self._entries.values() if e.wanted is not None]
        for blueprint in sorted(wanted, key=lambda b: line.waits_since(b.id) or 0.0):
            since = line.waits_since(blueprint.id)
            if may_begin and self.make_room(blueprint.file_bytes, line, since):
                self._begin(blueprint)
                return
            self._entries[blueprint.id].short = True

    def _begin(self, blueprint: Blueprint) -> None:
        logger.info("loading %s", blueprint.id)
        self._entries[blueprint.id].short = False
        self.ledger.weights[blueprint.id] = blueprint.file_bytes
        self._load = WeightLoad(blueprint, self._configure, self.ledger.prompt_cache)

    def _continue(self, load: WeightLoad) -> str | None:
        """One slice more; why the load failed, if it did."""
        id = load.blueprint.id
        try:
            if load.advance():
                self._welcome(id, load.finish())
            self.ledger.weights[id] = load.total_bytes
            if self.ledger.room < 0:
                raise MemoryError(f"it takes {in_units(load.total_bytes)} in memory")
        except Exception as error:
            # Files that are no model fail in many ways; the other models serve on.
            logger.exception("%s cannot be loaded", id)
            self._load = None
            self._note_failure(id, str(cannot_load(id, error)))
            release()
            return self._entries[id].reason
        return None

    def _welcome(self, id: str, model: ResidentModel) -> None:
        self._models[id] = model
        self._load = None
        self.ledger.rows[id] = Rows(model.engine.kv_cost)
        entry = self._entries[id]
        entry.wanted = entry.failed_at = None
        self.touch(id)

    def _note_failure(self, id: str, reason: str) -> None:
        self.ledger.weights.pop(id, None)
        entry = self._entries[id]
        entry.wanted, entry.reason, entry.failed_at = None, reason, self._clock()

    def fail(self, id: str, reason: str) -> None:
        """This model's files cannot be read."""
        self._note_failure(id, reason)

    def failure_of(self, id: str) -> str | None:
        """Why this model cannot be loaded, if that was found so lately that it is not tried."""
        entry = self._entries[id]
        if entry.failed_at is None or self._clock() - entry.failed_at > RETRY_S:
            return None
        return entry.reason

    # ------------------------------------------------------------ making room

    def room_alone(self, id: str) -> int:
        """The bytes its sequences could have, were all others gone that can be evicted."""
        return self.ledger.budget.for_models - self._size_of(id) - self._pinned_beside(id)

    def hopeless(self, id: str) -> bool:
        """Whether this model's weights can never fit."""
        return self.room_alone(id) < 0

    def short_of_memory(self, id: str) -> str:
        """Who holds the memory that this model needs, in a sentence."""
        need = f" ({in_units(self._size_of(id))})" if id not in self._models else ""
        return f"Not enough memory for {id}{need}: {self.ledger.describe()}."

    def _size_of(self, id: str) -> int:
        wanted = self._entries[id].wanted
        return self.ledger.weights.get(id, wanted.file_bytes if wanted is not None else 0)

    def _pinned_beside(self, id: str) -> int:
        others = (other for other in self._models if other != id and self._entries[other].pinned)
        return sum(self.ledger.weights[other] for other in others)

    def make_room(self, nbytes: int, line: Line, since: float | None = None) -> bool:
        """Evict idle models until so many bytes are free; False, and none evicted, if they won't.

        `since` is when the request came that needs it: a model that others wait for
        longer stays.
        """
        chosen = []
        room = self.ledger.room
        for id in self._evictable(line, since):
            if room >= nbytes:
                break
            chosen.append(id)
            room += self.ledger.weights[id]
        if room < nbytes:
            return False
        for id in chosen:
            logger.info("evicting %s", id)
            self._drop(id)
        self.ledger.give_up(nbytes - (self.ledger.room - self.ledger.prompt_cache.nbytes))
        return True

    def spare_one(self, line: Line) -> bool:
        """Evict the least recently used idle model, but not the last used of all."""
        candidates = list(self._evictable(line, None))
        latest = max(self._models, key=lambda id: self._entries[id].used_at, default=None)
        for id in candidates:
            if id != latest:
                logger.info("evicting %s: memory runs short", id)
                self._drop(id)
                return True
        return False

    def unload_idle(self, line: Line) -> list[str]:
        """Unload what was not used for its idle time; the ids."""
        now = self._clock()
        gone = [
            id for id in self._evictable(line, None) if now >= (self.idle_at(id) or float("inf"))
        ]
        for id in gone:
            logger.info("unloading %s: idle for %g s", id, self._entries[id].source.idle_s)
            self._drop(id)
        return gone

    def idle_at(self, id: str) -> float | None:
        """When this model, if it stays unused, is unloaded; None for never."""
        entry = self._entries[id]
        if not entry.source.idle_s or entry.pinned:
            return None
        return entry.used_at + entry.source.idle_s

    def next_idle_at(self) -> float | None:
        """When the first of the loaded models is to be unloaded, if it stays unused."""
        due = [at for id in self._models if (at := self.idle_at(id)) is not None]
        return min(due, default=None)

    def unload(self, id: str, line: Line) -> bool:
        """Give back this model's memory, if it has any; False if it is in use."""
        entry = self._entries[id]
        if self.is_loading(id):
            return False
        if id in self._models:
            if self._busy(id, line, None):
                return False
            self._drop(id)
        entry.wanted = entry.reason = entry.failed_at = None
        return True

    def pin(self, id: str, *, pinned: bool) -> None:
        """Keep this model, once loaded, whatever happens; or no more."""
        self._entries[id].pinned = pinned

    def touch(self, id: str) -> None:
        """This model was used now."""
        self._entries[id].used_at = self._clock()

    def _evictable(self, line: Line, since: float | None) -> Iterator[str]:
        """Idle models that are not pinned, the least recently used first."""
        for id in sorted(self._models, key=lambda id: self._entries[id].used_at):
            if not self._entries[id].pinned and not self._busy(id, line, since):
                yield id

    def _busy(self, id: str, line: Line, since: float | None) -> bool:
        """Whether it has sequences, or is waited for by a request that came before `since`."""
        waited_since = line.waits_since(id)
        waited_for = waited_since is not None and (since is None or waited_since <= since)
        return waited_for or bool(len(self.ledger.rows[id]) or len(self._models[id].engine))

    def _drop(self, id: str) -> None:
        self.ledger.prompt_cache.drop(self._models[id].blueprint.content_key)
        del self._models[id], self.ledger.weights[id], self.ledger.rows[id]
        release()
        self.on_drop(id)

    # ------------------------------------------------------------ telling

    def states(self) -> list[ModelState]:
        """All configured models as they are now."""
        return [self._state(id, entry) for id, entry in self._entries.items()]

    def _state(self, id: str, entry: Entry) -> ModelState:
        if id in self._models:
            info = self._models[id].info
            return ModelState(
                id, "loaded", entry.pinned, info.weight_bytes, info.weight_bytes, info=info
            )
        if (load := self._load) is not None and load.blueprint.id == id:
            return ModelState(id, "loading", entry.pinned, load.total_bytes, load.done_bytes)
        if entry.wanted is not None:
            return ModelState(
                id,
                "loading",
                entry.pinned,
                entry.wanted.file_bytes,
                reason="it waits for memory" if entry.short else None,
            )
        status = "unloaded" if entry.failed_at is None else "failed"
        return ModelState(id, status, entry.pinned, reason=entry.reason)  # type: ignore[arg-type]
