"""Rows in memory, until the service ends."""

from __future__ import annotations

from collections.abc import Sequence

from service.store.backends.rows import Changes, DataRow, ItemRow, RowKey


class MemoryBackend:
    """Rows in memory: `data` alone, since the store knows the rest."""

    def __init__(self) -> None:
        self._data: dict[RowKey, bytes] = {}

    def __len__(self) -> int:
        return len(self._data)

    def apply(self, changes: Changes) -> None:
        """Apply the changes."""
        for key, row in changes.items():
            if row is None:
                self._data.pop(key, None)
            elif isinstance(row, ItemRow | DataRow):
                self._data[key] = row.data

    async def flush(self) -> None:
        """Nothing is left to write."""

    async def read(self, keys: Sequence[RowKey]) -> list[bytes | None]:
        """The data of each item or entry; None for what is deleted."""
        return [self._data.get(key) for key in keys]

    async def tidy(self) -> None:
        """Nothing deleted is left."""

    async def close(self) -> None:
        """Forget all rows."""
        self._data.clear()
