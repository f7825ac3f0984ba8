"""Eviction: which loaded models are unloaded, and when.

The least recently used idle model is evicted first. Busy and pinned models are never
evicted. A model is busy while it has sequences, or while requests wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from worker.memory.accounting import MemoryAccount
from worker.models.states import ModelEntry
from worker.models.weight_loader import AnyLoadedModel

logger = logging.getLogger(__name__)

NEVER_S = float("inf")


class WaitingRequests(Protocol):
    """The part of the waiting queue that eviction uses."""

    def oldest_since(self, model: str) -> float | None:
        """When the oldest request for this model was received; None if none waits."""


class Evictor:
    """Evicts the models of one pool; `unload` frees a model's memory."""

    def __init__(
        self,
        *,
        entries: Mapping[str, ModelEntry],
        models: Mapping[str, AnyLoadedModel],
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
        """Evict idle models until `nbytes` are available; False, and none evicted, if impossible.

        `since` is when the request that needs the memory was received: a model that has
        waiting requests counts as idle if they are all younger.
        """
        evicted = []
        available_bytes = self._account.available_bytes
        for id in self._evictable(waiting, since):
            if available_bytes >= nbytes:
                break
            evicted.append(id)
            available_bytes += self._account.weight_bytes[id]
        if available_bytes < nbytes:
            return False
        for id in evicted:
            logger.info("evicting %s", id)
            self._unload(id)
        self._account.shrink_prompt_cache(
            nbytes - (self._account.available_bytes - self._account.prompt_cache.nbytes)
        )
        return True

    def evict_one(self, waiting: WaitingRequests) -> bool:
        """Evict the least recently used idle model, but never the most recently used model."""
        candidates = list(self._evictable(waiting, None))
        latest = max(self._models, key=lambda id: self._entries[id].used_at, default=None)
        for id in candidates:
            if id != latest:
                logger.info("evicting %s: memory in use is above the soft limit", id)
                self._unload(id)
                return True
        return False

    def unload_idle(self, waiting: WaitingRequests) -> list[str]:
        """Unload the models that have been unused for their idle time; returns their ids."""
        now = self._clock()
        if now < (self.next_idle_at() or NEVER_S):
            return []
        due = [id for id in self._evictable(waiting, None) if now >= (self.idle_at(id) or NEVER_S)]
        for id in due:
            logger.info("unloading %s: idle for %g s", id, self._entries[id].source.idle_s)
            self._unload(id)
        return due

    def idle_at(self, id: str) -> float | None:
        """When this model will be unloaded if it stays unused; None for never."""
        entry = self._entries[id]
        if not entry.source.idle_s or entry.pinned:
            return None
        return entry.used_at + entry.source.idle_s

    def next_idle_at(self) -> float | None:
        """When the first model will be unloaded if all stay unused; None for never."""
        due = [at for id in self._models if (at := self.idle_at(id)) is not None]
        return min(due, default=None)

    def last_used_at(self) -> float | None:
        """When any model was used last; None without models."""
        return max((self._entries[id].used_at for id in self._models), default=None)

    def is_busy(self, id: str, waiting: WaitingRequests, since: float | None = None) -> bool:
        """Whether this model has sequences, or a waiting request received by `since`."""
        oldest = waiting.oldest_since(id)
        has_waiting = oldest is not None and (since is None or oldest <= since)
        return has_waiting or bool(len(self._account.kv[id]) or len(self._models[id].engine))

    def _evictable(self, waiting: WaitingRequests, since: float | None) -> Iterator[str]:
        """The idle models that are not pinned, least recently used first."""
        for id in sorted(self._models, key=lambda id: self._entries[id].used_at):
            if not self._entries[id].pinned and not self.is_busy(id, waiting, since):
                yield id
