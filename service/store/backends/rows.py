"""What a back end keeps: rows with their keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
EntryKind = Literal["response", "conversation"]
UNFINISHED: tuple[Status, ...] = ("queued", "in_progress")


class StoredItem(msgspec.Struct, frozen=True):
    """An item of a conversation, encoded as JSON. `key` is its number in the store; 0 if it is new.

    An item that the store returned is shared, and counted once, where it is stored again.
    """

    id: str
    data: bytes
    key: int = 0


class ItemRow(msgspec.Struct, frozen=True, kw_only=True):
    """An item: immutable, held by turns."""

    id: str
    owner: str
    data: bytes


class TurnRow(msgspec.Struct, frozen=True, kw_only=True):
    """The items that one response, or one change of a conversation, adds to those of `parent`.

    `parent` and `items` are keys; `parent` is 0 for the first turn. The first `inputs` of the
    items are the input of a response, the others its output.
    """

    owner: str
    parent: int
    items: tuple[int, ...]
    inputs: int


class EntryRow(msgspec.Struct, frozen=True, kw_only=True):
    """A response, or a conversation, without its data.

    `turn` is the key of its last turn, 0 for none. Times are Unix time in seconds; it is kept
    from `kept_from` on.
    """

    kind: EntryKind
    owner: str
    created_at: float
    kept_from: float
    status: Status
    is_background: bool
    turn: int


class DataRow(msgspec.Struct, frozen=True):
    """The data of a response or a conversation: its object as JSON, without its items."""

    data: bytes


Row = ItemRow | TurnRow | EntryRow | DataRow
Table = Literal["items", "turns", "entries", "data"]


class RowKey(NamedTuple):
    """The key of a row: the number of an item or a turn, the id of an entry."""

    table: Table
    key: int | str


# None deletes the row.
Changes = dict[RowKey, Row | None]


def item_keys(keys: Iterable[int]) -> list[RowKey]:
    """The keys of items by their numbers."""
    return [RowKey("items", key) for key in keys]


def entry_key(id: str) -> RowKey:
    """The key of a response or a conversation."""
    return RowKey("entries", id)


def data_key(id: str) -> RowKey:
    """The key of the data of a response or a conversation."""
    return RowKey("data", id)
