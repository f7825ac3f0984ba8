"""Conversations: lists of items with metadata, to which responses add their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from service.errors import InvalidRequest, Overloaded, StoredObjectNotFound, StoreUnavailable
from service.store.backends.rows import StoredItem, data_key
from service.store.index import ENTRY_BYTES, Entry, StoreIndex
from service.store.items import Item, chain_of, items_until
from service.store.pages import ItemPage, PageQuery, read_items, select_page

MAX_ADDED_ITEMS = 20


class StoredConversation(NamedTuple):
    """A conversation. `data` is its object as JSON, without its items."""

    id: str
    created_at: float
    data: bytes


class ConversationStore:
    """All conversations that are kept. `is_on` is False where the setting is off."""

    def __init__(self, index: StoreIndex) -> None:
        self._index = index

    @property
    def is_on(self) -> bool:
        """Whether anything can be kept."""
        return self._index.max_bytes > 0

    async def create(
        self, owner: str, id: str, data: bytes, items: Sequence[StoredItem], created_at: float
    ) -> StoredConversation:
        """Keep a new conversation, with its first items.

        Raises:
            InvalidRequest: there are more than 20 items, or no room for it.
            StoreUnavailable: it could not be written.
        """
        index, graph = self._index, self._index.graph
        check_count(items)
        holder = index.owner(owner)
        size = ENTRY_BYTES + len(id) + len(data) + graph.cost(items)
        if not index.make_room(holder, size):
            raise no_room()
        turn = graph.add_turn(holder, None, items, 0) if items else None
        entry = index.add(
            "conversation",
            id,
            holder,
            status="completed",
            data=data,
            turn=turn,
            created_at=created_at,
        )
        graph.release(turn)
        try:
            await self._index.commit()
        except BaseException:
            index.remove(entry)
            index.apply()
            raise
        return StoredConversation(id, created_at, data)

    async def get(self, owner: str, id: str) -> StoredConversation:
        """A conversation.

        Raises:
            StoredObjectNotFound: the id is unknown, or another owner's.
            StoreUnavailable: it cannot be read.
        """
        entry = self._find(owner, id)
        (data,) = await self._index.backend.read([data_key(id)])
        if data is None:
            raise self._index.ids.not_found("conversation", id)
        return StoredConversation(id, entry.created_at, data)

    async def update(self, owner: str, id: str, data: bytes) -> StoredConversation:
        """Replace the object of a conversation: its metadata.

        Raises:
            StoredObjectNotFound: the id is unknown, or another owner's.
            InvalidRequest: there is no room for it.
            StoreUnavailable: it could not be written.
        """
        entry = self._find(owner, id)
        if not self._make_room(entry, len(data)):
            raise no_room()
        self._index.set_data(entry, data)
        await self._index.commit()
        return StoredConversation(id, entry.created_at, data)

    async def delete(self, owner: str, id: str) -> None:
        """Remove a conversation; responses that were made in it keep their items.

        Raises:
            StoredObjectNotFound: the id is unknown, or another owner's.
            StoreUnavailable: it could not be removed from the disk.
        """
        self._index.remove(self._find(owner, id))
        await self._index.commit()

    # ---------------------------------------------------------------- items

    async def add_items(self, owner: str, id: str, items: Sequence[StoredItem]) -> list[StoredItem]:
        """Add up to 20 items at the end.

        Raises:
            StoredObjectNotFound: the id is unknown, or another owner's.
            InvalidRequest: there are more than 20 items, or no room for them.
            StoreUnavailable: they could not be written.
        """
        entry = self._find(owner, id)
        check_count(items)
        if not self._make_room(entry, self._index.graph.cost(items)):
            raise no_room()
        former = entry.turn
        turn = self._index.graph.add_turn(entry.owner, former, items, 0)
        self._index.set_turn(entry, turn)
        try:
            await self._index.commit()
        except StoreUnavailable:
            if entry.turn is turn and not entry.is_removed:
                self._index.set_turn(entry, former)
            raise
        finally:
            self._index.graph.release(turn)
            self._index.apply()
        return [
            StoredItem(item.id, given.data, item.key)
            for item, given in zip(turn.items, items, strict=True)
        ]

    async def list_items(self, owner: str, id: str, query: PageQuery) -> ItemPage:
        """The items of a conversation.

        Raises:
            StoredObjectNotFound: the id is unknown, or another owner's.
            InvalidRequest: the query is invalid.
            StoreUnavailable: they cannot be read.
        """
        page, has_more = select_page(items_until(self._find(owner, id).turn), query)
        return ItemPage(await read_items(self._index.backend, page), has_more)

    async def get_item(self, owner: str, id: str, item_id: str) -> StoredItem:
        """An item of a conversation.

        Raises:
            StoredObjectNotFound: one of the ids is unknown, or another owner's.
            StoreUnavailable: it cannot be read.
        """
        item = find_in(self._find(owner, id), item_id)
        found = await read_items(self._index.backend, [item])
        if not found:
            raise StoredObjectNotFound("item", item_id)
        return found[0]

    async def delete_item(self, owner: str, id: str, item_id: str) -> StoredConversation:
        """Remove an item from a conversation; responses that hold it keep it.

        Raises:
            StoredObjectNotFound: one of the ids is unknown, or another owner's.
            Overloaded: there is no room for the list without it now.
            StoreUnavailable: it could not be removed from the disk.
        """
        entry, graph = self._find(owner, id), self._index.graph
        item = find_in(entry, item_id)
        # The turns from that of the item on are replaced; those before it stay.
        later: list[Item] = []
        parent = None
        for turn in chain_of(entry.turn):
            later = [*turn.items, *later]
            if item in turn.items:
                parent = turn.parent
                break
        left = [each for each in later if each is not item]
        if not self._make_room(entry, graph.cost(left)):
            raise Overloaded(
                "Responses that wait or run take the room of the response store.",
                code="response_store_full",
            )
        replaced = graph.add_turn(entry.owner, parent, left, 0) if left else parent
        self._index.set_turn(entry, replaced)
        if left:
            graph.release(replaced)
        await self._index.commit()
        return await self.get(owner, id)

    # ---------------------------------------------------------------- parts

    def _make_room(self, entry: Entry, size: int) -> bool:
        """Make room for a conversation to grow; it is not evicted for itself."""
        self._index.use(entry)
        try:
            return self._index.make_room(entry.owner, size)
        finally:
            self._index.end_use(entry)

    def _find(self, owner: str, id: str) -> Entry:
        entry = self._index.find("conversation", owner, id)
        if entry is None:
            raise self._index.ids.not_found("conversation", id)
        return entry


def find_in(conversation: Entry, item_id: str) -> Item:
    """The last item of a conversation with this id.

    Raises:
        StoredObjectNotFound: it has none.
    """
    for turn in chain_of(conversation.turn):
        for item in reversed(turn.items):
            if item.id == item_id:
                return item
    raise StoredObjectNotFound("item", item_id)


def check_count(items: Sequence[StoredItem]) -> None:
    """Check that these are not too many items for one call.

    Raises:
        InvalidRequest: there are more than 20.
    """
    if len(items) > MAX_ADDED_ITEMS:
        raise InvalidRequest(f"items has more than {MAX_ADDED_ITEMS} items.", param="items")


def no_room() -> InvalidRequest:
    """The error for a conversation that is larger than the store."""
    return InvalidRequest(
        "The conversation needs more than the response store holds (response_store_bytes).",
        param="items",
        code="conversation_too_large",
    )
