"""The stores of responses and conversations, opened together: they share items and one bound."""

from __future__ import annotations

from dataclasses import dataclass

from service.store.backends.memory import MemoryBackend
from service.store.conversations import ConversationStore
from service.store.index import Clock, StoreIndex
from service.store.responses import ResponseStore

# Without API keys all clients are one owner. It is no name that a key can have.
COMMON_OWNER = ""


@dataclass(frozen=True, slots=True)
class Stores:
    """`responses` and `conversations`; `index` for the metrics."""

    responses: ResponseStore
    conversations: ConversationStore
    index: StoreIndex

    async def close(self) -> None:
        """Write what is not written yet."""
        await self.index.backend.close()


def open_memory_stores(max_bytes: int, ttl_s: float, *, clock: Clock | None = None) -> Stores:
    """Stores in memory. With `max_bytes` 0 they keep nothing, and find nothing."""
    index = StoreIndex(MemoryBackend(), max_bytes, ttl_s, clock)
    return Stores(ResponseStore(index), ConversationStore(index), index)
