"""The stores of responses and conversations, opened together: they share items and one bound."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from service.errors import StoreUnavailable
from service.schema.object_ids import ObjectIds
from service.store.backends.database import LoadedRows
from service.store.backends.memory import MemoryBackend
from service.store.backends.rows import UNFINISHED, RowKey, data_key, entry_key
from service.store.backends.sqlite import SqliteBackend
from service.store.conversations import ConversationStore
from service.store.index import Clock, StoreIndex
from service.store.responses import ResponseStore

logger = logging.getLogger(__name__)

# Without API keys all clients are one owner. It is no name that a key can have.
COMMON_OWNER = ""
# Deleted and expired content leaves the memory and the file within this time.
TIDY_INTERVAL_S = 10.0
MEMORY, OFF = "memory", "off"
RESTARTED = {"code": "server_error", "message": "The service was restarted."}


@dataclass(frozen=True, slots=True)
class Stores:
    """`responses` and `conversations`; `index` for the metrics."""

    responses: ResponseStore
    conversations: ConversationStore
    index: StoreIndex

    @property
    def ids(self) -> ObjectIds:
        """The maker of their ids."""
        return self.index.ids

    async def run(self) -> None:
        """Evict what expires, and remove it from the file, until cancelled."""
        is_failing = False
        while True:
            await asyncio.sleep(TIDY_INTERVAL_S)
            self.index.drop_expired()
            try:
                await self.index.backend.tidy()
                is_failing = False
            except StoreUnavailable as error:
                if not is_failing:
                    logger.error("%s; trying again every %g s", error.message, TIDY_INTERVAL_S)
                is_failing = True

    async def close(self) -> None:
        """Write what is not written yet."""
        self.index.apply()
        await self.index.backend.close()


async def open_stores(
    where: str, max_bytes: int, ttl_s: float, *, clock: Clock | None = None, tag: str = ""
) -> Stores:
    """The stores of the setting `response_store`: memory, off, or the path of a file.

    Their ids have the `tag` of this replica.

    Raises:
        StoreUnavailable: the file cannot be opened.
    """
    if where in (MEMORY, OFF):
        max_bytes = max_bytes if where == MEMORY else 0
        return open_memory_stores(max_bytes, ttl_s, clock=clock, tag=tag)
    backend, rows = await SqliteBackend.open(Path(where))
    try:
        index = StoreIndex(backend, max_bytes, ttl_s, clock, ObjectIds(tag))
        restore_rows(index, rows)
        await fail_unfinished(index)
        # What has failed has some bytes more.
        index.make_room(index.owner(COMMON_OWNER), 0)
    except BaseException:
        await backend.close()
        raise
    try:
        await backend.flush()
    except StoreUnavailable as error:
        # What is kept can be read, and the next change tries again.
        logger.error("%s", error.message)
    return Stores(ResponseStore(index), ConversationStore(index), index)


@asynccontextmanager
async def running_stores(
    where: str, max_bytes: int, ttl_s: float, *, tag: str = ""
) -> AsyncIterator[Stores]:
    """The stores of the setting, evicting what expires, until the end of the block.

    Raises:
        StoreUnavailable: the file cannot be opened.
    """
    stores = await open_stores(where, max_bytes, ttl_s, tag=tag)
    task = asyncio.create_task(stores.run())
    try:
        yield stores
    finally:
        task.cancel()
        await asyncio.wait([task])
        await stores.close()


def open_memory_stores(
    max_bytes: int, ttl_s: float, *, clock: Clock | None = None, tag: str = ""
) -> Stores:
    """Stores in memory. With `max_bytes` 0 they keep nothing, and find nothing."""
    index = StoreIndex(MemoryBackend(), max_bytes, ttl_s, clock, ObjectIds(tag))
    return Stores(ResponseStore(index), ConversationStore(index), index)


def restore_rows(index: StoreIndex, rows: LoadedRows) -> None:
    """Insert the rows of a file, also of what is expired, or above the bound by now."""
    graph, missing = index.graph, 0
    for item in rows.items:
        graph.restore_item(item.key, index.owner(item.owner), item.id, item.data_bytes)
    for key, turn in rows.turns:
        try:
            graph.restore_turn(key, index.owner(turn.owner), turn)
        except KeyError:
            missing += 1
            index.delete_row(RowKey("turns", key))
    for id, entry, data_bytes in rows.entries:
        try:
            index.restore(id, entry, data_bytes)
        except KeyError:
            missing += 1
            index.delete_row(entry_key(id))
            index.delete_row(data_key(id))
    if missing:
        logger.error("response_store: %d rows belong to others that are missing", missing)
    graph.drop_unheld(rows.next_key)


async def fail_unfinished(index: StoreIndex) -> None:
    """End the responses that waited or ran when the service ended.

    Raises:
        StoreUnavailable: they cannot be read.
    """
    for entry in [entry for entry in index.entries.values() if entry.status in UNFINISHED]:
        (data,) = await index.backend.read([data_key(entry.id)])
        index.set_failed(entry, b"{}" if data is None else to_failed(data))


def to_failed(data: bytes) -> bytes:
    """A response object that is failed, because the service was restarted."""
    return msgspec.json.encode(
        {**msgspec.json.decode(data, type=dict), "status": "failed", "error": RESTARTED}
    )
