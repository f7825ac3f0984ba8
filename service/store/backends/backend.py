"""What the store needs of a back end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from service.store.backends.rows import Changes, RowKey


class Backend(Protocol):
    """Keeps rows. What the store needs to know of them it knows by itself, but for `data`."""

    def apply(self, changes: Changes) -> None:
        """Apply all changes together, or none, after those of earlier calls.

        `read` has them at once; they may be written later.
        """

    async def flush(self) -> None:
        """Wait until everything applied is written.

        Raises:
            StoreUnavailable: it could not be written; the next call tries again.
        """

    async def read(self, keys: Sequence[RowKey]) -> list[bytes | None]:
        """The data of each item or entry; None for what is deleted.

        Raises:
            StoreUnavailable: they could not be read.
        """

    async def tidy(self) -> None:
        """Write what is not written yet, and remove deleted content; called now and then.

        Raises:
            StoreUnavailable: this was not possible.
        """

    async def close(self) -> None:
        """Write what is not written yet, and release all resources."""
