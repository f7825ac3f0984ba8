"""Eviction: which loaded models give their memory back, and when.

The least recently used idle model goes first, never a busy or a pinned one. A model is
busy while it has sequences or requests wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from worker.memory.accounting import MemoryAccount
from worker.models.states import ModelEntry
from worker.models.weight_loader import LoadedModel

logger = logging.getLogger(__name__)

NEVER_S = float("inf")


class WaitingRequests(Protocol):
    """The waiting queue, as far as eviction asks it."""

    def oldest_since(self, model: str) -> float | None:
        """Since when the oldest request waits for this model; None if none does."""


class Evictor:
    """Evicts models of one pool by `unload`, which frees their memory."""

    def __init__(
        self,
        entries: Mapping[str, ModelEntry],
        models: Mapping[str, LoadedModel],
        account: MemoryAccount,
        unload: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._entries = entries
        self._models = models
        self._account = account
        self._unload = unload
        self._clock = clock

    def make_room(self, nbytes: int, waiting: WaitingRequests, since: float | None = None) -> bool:
        """Evict idle models until `nbytes` are free; if that cannot be, evict none.

        `since` is when the request came that needs the memory: a model that others have
        waited for longer stays.
        """
        chosen = []
        room = self._account.room
        for id in self._evictable(waiting, since):
            if room >= nbytes:
                break
            chosen.append(id)
            room += self._account.weights[id]
        if room < nbytes:
            return False
        for id in chosen:
            logger.info("evicting %s", id)
            self._unload(id)
        self._account.shrink_prompt_cache(
            nbytes - (self._account.room - self._account.prompt_cache.nbytes)
        )
        return True

    def evict_one(self, waiting: WaitingRequests) -> bool:
        """Evict the least recently used idle model, but not the most recently used of all."""
        candidates = list(self._evictable(waiting, None))
        latest = max(self._models, key=lambda id: self._entries[id].used_at, default=None)
        for id in candidates:
            if id != latest:
                logger.info("evicting %s: memory runs short", id)
                self._unload(id)
                return True
        return False

    def unload_idle(self, waiting: WaitingRequests) -> list[str]:
        """Unload the models that were unused for their idle time; returns their ids."""
        now = self._clock()
        due = [id for id in self._evictable(waiting, None) if now >= (self.idle_at(id) or NEVER_S)]
        for id in due:
            logger.info("unloading %s: idle for %g s", id, self._entries[id].source.idle_s)
            self._unload(id)
        return due

    def idle_at(self, id: str) -> float | None:
        """When this model is unloaded if it stays unused; None for never."""
        entry = self._entries[id]
        if not entry.source.idle_s or entry.pinned:
            return None
        return entry.used_at + entry.source.idle_s

    def next_idle_at(self) -> float | None:
        """When the first loaded model is unloaded if all stay unused."""
        due = [at for id in self._models if (at := self.idle_at(id)) is not None]
        return min(due, default=None)

    def is_busy(self, id: str, waiting: WaitingRequests, since: float | None = None) -> bool:
        """Whether it has sequences, or a request that came before `since` waits for it."""
        oldest = waiting.oldest_since(id)
        awaited = oldest is not None and (since is None or oldest <= since)
        return awaited or bool(len(self._account.kv[id]) or len(self._models[id].engine))

    def _evictable(self, waiting: WaitingRequests, since: float | None) -> Iterator[str]:
        """Idle models that are not pinned, the least recently used first."""
        for id in sorted(self._models, key=lambda id: self._entries[id].used_at):
            if not self._entries[id].pinned and not self.is_busy(id, waiting, since):
                yield id
