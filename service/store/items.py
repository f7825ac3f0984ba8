"""Items and turns, shared by reference: counted once, and freed with their last holder.

A turn is what a response, or a change of a conversation, adds to the items before it. It holds
its parent, so a chain of n turns has n turns, and lives as long as anything goes on from it.
Turns that requests in progress need are pinned, with all before them: this is counted too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from service.store.backends.rows import Changes, ItemRow, RowKey, StoredItem, TurnRow

# What an item, a turn and a reference to an item take in memory besides their data.
ITEM_BYTES = 512
TURN_BYTES = 384
REFERENCE_BYTES = 16


class Usage:
    """Bytes that are held, and the part of them that is pinned; they count in `total` too."""

    def __init__(self, total: Usage | None = None) -> None:
        self.held_bytes = 0
        self.pinned_bytes = 0
        self._total = total

    def hold(self, size: int) -> None:
        """Count more bytes as held; fewer if negative."""
        self.held_bytes += size
        if self._total is not None:
            self._total.hold(size)

    def pin(self, size: int) -> None:
        """Count more of the held bytes as pinned; fewer if negative."""
        self.pinned_bytes += size
        if self._total is not None:
            self._total.pin(size)


class OwnerUsage(Usage):
    """The usage of one owner."""

    def __init__(self, name: str, total: Usage) -> None:
        super().__init__(total)
        self.name = name


class Item:
    """An item, without its data. `holders` are turns, `pins` those of them that are pinned."""

    __slots__ = ("holders", "id", "key", "owner", "pins", "size")

    def __init__(self, key: int, id: str, owner: OwnerUsage, size: int) -> None:
        self.key = key
        self.id = id
        self.owner = owner
        self.size = size
        self.holders = 0
        self.pins = 0


class Turn:
    """A turn. `holders` are entries, later turns and requests in progress."""

    __slots__ = ("holders", "inputs", "items", "key", "owner", "parent", "pins", "size")

    def __init__(
        self, key: int, owner: OwnerUsage, parent: Turn | None, items: tuple[Item, ...], inputs: int
    ) -> None:
        self.key = key
        self.owner = owner
        self.parent = parent
        self.items = items
        self.inputs = inputs
        self.size = TURN_BYTES + REFERENCE_BYTES * len(items)
        self.holders = 0
        self.pins = 0


class ItemGraph:
    """All items and turns. Changes of them are added to `changes`."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._keys = itertools.count(1)
        self.items: dict[int, Item] = {}
        self.turns: dict[int, Turn] = {}
        # The items of an owner with one id, oldest first: clients choose ids.
        self._by_id: dict[tuple[str, str], dict[int, Item]] = {}

    def add_turn(
        self,
        owner: OwnerUsage,
        parent: Turn | None,
        items: Sequence[StoredItem | Item],
        inputs: int,
    ) -> Turn:
        """A turn after `parent`, held once by the caller. Items of the store are shared."""
        own = tuple(
            item if isinstance(item, Item) else self._share_or_add(owner, item) for item in items
        )
        turn = self._insert_turn(next(self._keys), owner, parent, own, inputs)
        row = TurnRow(
            owner=owner.name,
            parent=0 if parent is None else parent.key,
            items=tuple(item.key for item in own),
            inputs=inputs,
        )
        self._changes[RowKey("turns", turn.key)] = row
        turn.holders = 1
        return turn

    def find(self, owner: str, id: str) -> Item | None:
        """The newest item of an owner with this id."""
        found = self._by_id.get((owner, id))
        return None if found is None else found[next(reversed(found))]

    def hold(self, turn: Turn | None) -> None:
        """Keep a turn, and all before it, until `release`."""
        if turn is not None:
            turn.holders += 1

    def release(self, turn: Turn | None) -> None:
        """End a `hold`; turns and items without a holder are freed."""
        while turn is not None:
            turn.holders -= 1
            if turn.holders:
                return
            self._remove_turn(turn)
            turn = turn.parent

    def pin(self, turn: Turn | None) -> None:
        """Hold a turn, and count it and all before it as pinned, until `unpin`."""
        self.hold(turn)
        while turn is not None:
            turn.pins += 1
            if turn.pins > 1:
                return
            turn.owner.pin(turn.size)
            for item in turn.items:
                item.pins += 1
                if item.pins == 1:
                    item.owner.pin(item.size)
            turn = turn.parent

    def unpin(self, turn: Turn | None) -> None:
        """End a `pin`."""
        last = turn
        while turn is not None:
            turn.pins -= 1
            if turn.pins:
                break
            turn.owner.pin(-turn.size)
            for item in turn.items:
                item.pins -= 1
                if item.pins == 0:
                    item.owner.pin(-item.size)
            turn = turn.parent
        self.release(last)

    def cost(self, items: Iterable[StoredItem | Item]) -> int:
        """The bytes that a turn of these items adds: those in the store cost a reference."""
        return TURN_BYTES + sum(
            REFERENCE_BYTES
            + (
                ITEM_BYTES + len(item.id) + len(item.data)
                if isinstance(item, StoredItem) and item.key not in self.items
                else 0
            )
            for item in items
        )

    def pin_cost(self, turn: Turn | None) -> int:
        """The bytes that a pin of `turn` would pin, as far as they are not."""
        return sum(
            each.size + sum(item.size for item in each.items if not item.pins)
            for each in itertools.takewhile(lambda each: not each.pins, chain_of(turn))
        )

    # ---------------------------------------------------------------- after a restart

    def restore_item(self, key: int, owner: OwnerUsage, id: str, data_bytes: int) -> None:
        """Insert an item that a back end has kept."""
        self._insert_item(key, owner, id, data_bytes)

    def restore_turn(self, key: int, owner: OwnerUsage, row: TurnRow) -> None:
        """Insert a turn that a back end has kept, after its parent and items; it has no holder yet.

        Raises:
            KeyError: the parent, or an item, is missing.
        """
        parent = self.turns[row.parent] if row.parent else None
        self._insert_turn(key, owner, parent, tuple(self.items[i] for i in row.items), row.inputs)

    def drop_unheld(self, first_key: int) -> None:
        """After all rows: free what has no holder, and number what is new from `first_key` on."""
        self._keys = itertools.count(first_key)
        for turn in list(self.turns.values()):
            if turn.holders == 0:
                turn.holders = 1
                self.release(turn)
        for item in [item for item in self.items.values() if item.holders == 0]:
            self._remove_item(item)

    # ---------------------------------------------------------------- parts

    def _share_or_add(self, owner: OwnerUsage, item: StoredItem) -> Item:
        known = self.items.get(item.key)
        if known is not None:
            return known
        key = next(self._keys)
        row = ItemRow(id=item.id, owner=owner.name, data=item.data)
        self._changes[RowKey("items", key)] = row
        return self._insert_item(key, owner, item.id, len(item.data))

    def _insert_item(self, key: int, owner: OwnerUsage, id: str, data_bytes: int) -> Item:
        added = Item(key, id, owner, ITEM_BYTES + len(id) + data_bytes)
        self.items[key] = added
        self._by_id.setdefault((owner.name, id), {})[key] = added
        owner.hold(added.size)
        return added

    def _insert_turn(
        self,
        key: int,
        owner: OwnerUsage,
        parent: Turn | None,
        items: tuple[Item, ...],
        inputs: int,
    ) -> Turn:
        turn = Turn(key, owner, parent, items, inputs)
        self.turns[key] = turn
        owner.hold(turn.size)
        self.hold(parent)
        for item in items:
            item.holders += 1
        return turn

    def _remove_turn(self, turn: Turn) -> None:
        del self.turns[turn.key]
        self._changes[RowKey("turns", turn.key)] = None
        turn.owner.hold(-turn.size)
        for item in turn.items:
            item.holders -= 1
            if item.holders == 0:
                self._remove_item(item)

    def _remove_item(self, item: Item) -> None:
        del self.items[item.key]
        self._changes[RowKey("items", item.key)] = None
        item.owner.hold(-item.size)
        same_id = self._by_id[item.owner.name, item.id]
        del same_id[item.key]
        if not same_id:
            del self._by_id[item.owner.name, item.id]


def chain_of(turn: Turn | None) -> Iterator[Turn]:
    """The turn and those before it, the last one first."""
    while turn is not None:
        yield turn
        turn = turn.parent


def items_until(turn: Turn | None) -> list[Item]:
    """The items of a turn and of all before it, in order."""
    turns = list(chain_of(turn))
    return [item for each in reversed(turns) for item in each.items]
