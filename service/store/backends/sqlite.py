"""Rows in an SQLite database, written by a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from service.errors import StoreUnavailable
from service.store.backends.database import Database, LoadedRows, describe, open_database
from service.store.backends.rows import Changes, DataRow, ItemRow, RowKey

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class SqliteBackend:
    """Rows in a file. What is applied is in memory until it is written, with all there is by then.

    A failed write is tried again with the next one, so the rows of the file always belong
    together: they are those of some moment.
    """

    def __init__(self, database: Database, thread: ThreadPoolExecutor) -> None:
        self._database = database
        self._thread = thread
        self._unwritten: Changes = {}
        self._applied = 0
        self._written = 0
        self._writing = asyncio.Lock()
        self._is_untidy = False
        self._is_closed = False

    @classmethod
    async def open(cls, path: Path) -> tuple[Self, LoadedRows]:
        """Open the file, and read what the store needs to know of its rows.

        Raises:
            StoreUnavailable: it cannot be opened.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="response-store")
        loop = asyncio.get_running_loop()
        try:
            database, rows = await loop.run_in_executor(thread, open_database, path)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(database, thread), rows

    def apply(self, changes: Changes) -> None:
        """Apply the changes; they are written by the next `flush`."""
        if changes:
            self._unwritten.update(changes)
            self._applied += 1

    async def flush(self) -> None:
        """Write everything that is applied.

        Raises:
            StoreUnavailable: it could not be written; the next call tries again.
        """
        wanted = self._applied
        while self._written < wanted:
            async with self._writing:
                if self._written < wanted:
                    await self._write()

    async def read(self, keys: Sequence[RowKey]) -> list[bytes | None]:
        """The data of each item or entry; None for what is deleted.

        Raises:
            StoreUnavailable: they could not be read.
        """
        found: dict[RowKey, bytes | None] = {}
        for key in keys:
            if key in self._unwritten:
                row = self._unwritten[key]
                found[key] = row.data if isinstance(row, ItemRow | DataRow) else None
        written = [key for key in keys if key not in found]
        if written:
            found |= await self._run(partial(self._database.read, written))
        return [found.get(key) for key in keys]

    async def tidy(self) -> None:
        """Write everything, and remove deleted content from the file.

        Raises:
            StoreUnavailable: this was not possible.
        """
        await self.flush()
        if self._is_untidy:
            await self._run(self._database.tidy)
            self._is_untidy = False

    async def close(self) -> None:
        """Write everything, and close the file."""
        try:
            await self.flush()
            await self._run(self._database.close)
        except StoreUnavailable as error:
            logger.error("%s", error.message)
        self._is_closed = True
        self._thread.shutdown(wait=True)

    async def _write(self) -> None:
        batch, applied = dict(self._unwritten), self._applied
        await self._run(partial(self._database.write, batch))
        for key, row in batch.items():
            # A later change of the same row is not written yet.
            if key in self._unwritten and self._unwritten[key] is row:
                del self._unwritten[key]
        self._written = applied
        self._is_untidy = True

    async def _run(self, call: Callable[[], Result]) -> Result:
        if self._is_closed:
            raise StoreUnavailable("The response store is closed.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except sqlite3.Error as error:
            # Clients read this: it does not name the file.
            raise StoreUnavailable(f"The response store failed: {describe(error)}.") from None
