"""Items read with their data: some, or a page by `limit`, `order` and `after`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from service.errors import InvalidRequest, excerpt
from service.store.backends.backend import Backend
from service.store.backends.rows import RowKey, StoredItem, item_keys
from service.store.items import Item

MAX_LIMIT = 100
DEFAULT_LIMIT = 20

Order = Literal["asc", "desc"]


class PageQuery(NamedTuple):
    """What a client asks for: up to `limit` items, from 1 to 100, after the item with an id."""

    limit: int = DEFAULT_LIMIT
    order: Order = "desc"
    after: str | None = None


class ItemPage(NamedTuple):
    """The items of one page, and whether there are more after them."""

    items: list[StoredItem]
    has_more: bool

    @property
    def first_id(self) -> str | None:
        """The id of the first item."""
        return self.items[0].id if self.items else None

    @property
    def last_id(self) -> str | None:
        """The id of the last item."""
        return self.items[-1].id if self.items else None


def select_page(items: Sequence[Item], query: PageQuery) -> tuple[list[Item], bool]:
    """The items of the page out of `items`, which are in order; whether more follow.

    Raises:
        InvalidRequest: `limit` is out of range, or no item has the id `after`.
    """
    if not 1 <= query.limit <= MAX_LIMIT:
        message = f"`limit` is not between 1 and {MAX_LIMIT}."
        raise InvalidRequest(message, param="limit", code="invalid_value")
    ordered = list(items) if query.order == "asc" else list(reversed(items))
    first = 0
    if query.after is not None:
        positions = [place for place, item in enumerate(ordered) if item.id == query.after]
        if not positions:
            shown = excerpt(query.after, 100)
            message = f"`after`: no item of the list has the id `{shown}`."
            raise InvalidRequest(message, param="after", code="invalid_value")
        first = positions[-1] + 1
    return ordered[first : first + query.limit], len(ordered) > first + query.limit


async def read_items(backend: Backend, items: Sequence[Item]) -> list[StoredItem]:
    """The items with their data; those that were deleted meanwhile are left out.

    Raises:
        StoreUnavailable: they cannot be read.
    """
    keys: list[RowKey] = item_keys(item.key for item in items)
    return to_stored(items, await backend.read(keys))


def to_stored(items: Sequence[Item], parts: Sequence[bytes | None]) -> list[StoredItem]:
    """The items with their data; those without are left out."""
    return [
        StoredItem(item.id, data, item.key)
        for item, data in zip(items, parts, strict=True)
        if data is not None
    ]
