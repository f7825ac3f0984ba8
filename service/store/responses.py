"""Responses: made, kept, read, gone on from, and deleted.

    async with await store.open(owner, id, previous_response_id=...) as response:
        ...                                   # response.context: the items before the input
        response.inputs = [StoredItem(...)]
        await response.queue(data)            # only of a background response: it can be read now
        response.log.append(event)            # likewise: its events, for replay
        await response.finish("completed", data, outputs)

`data` is the response object as JSON, without its items, which are stored once.
"""

from __future__ import annotations

from typing import NamedTuple

from service.errors import InvalidRequest, MlxdError
from service.store.backends.rows import UNFINISHED, Status, StoredItem, data_key, item_keys
from service.store.index import Entry, StoreIndex
from service.store.items import Item, items_until
from service.store.open_response import OpenResponse
from service.store.pages import ItemPage, PageQuery, read_items, select_page, to_stored
from service.store.replay_log import ReplayLog


class StoredResponse(NamedTuple):
    """A response as it is kept. `data` is its object as JSON, without its items."""

    id: str
    created_at: float
    status: Status
    is_background: bool
    data: bytes
    outputs: list[StoredItem]
    # The events of a background response; None if it has none, or they are no longer kept.
    log: ReplayLog | None


class ResponseStore:
    """All responses that are kept. `is_on` is False where the setting is off: nothing is kept."""

    def __init__(self, index: StoreIndex) -> None:
        self._index = index

    @property
    def is_on(self) -> bool:
        """Whether anything can be kept."""
        return self._index.max_bytes > 0

    async def open(
        self,
        owner: str,
        id: str,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
    ) -> OpenResponse:
        """Begin the response `id` of an owner, after another response or in a conversation.

        Close the result in any case: until then, the items before it are kept.

        Raises:
            InvalidRequest: the previous response is unknown (`previous_response_not_found`), or
                the conversation is another replica's.
            StoredObjectNotFound: the conversation is unknown.
            StoreUnavailable: the items cannot be read.
        """
        before = None
        if previous_response_id is not None:
            before = self._index.find("response", owner, previous_response_id)
            if before is None:
                reason = self._index.ids.explain(previous_response_id)
                raise previous_response_not_found(previous_response_id, reason)
            if before.status in UNFINISHED:
                raise InvalidRequest(
                    f"Previous response with id '{previous_response_id[:100]}' has not ended.",
                    param="previous_response_id",
                    code="previous_response_not_ended",
                )
        elif conversation_id is not None:
            before = self._index.find("conversation", owner, conversation_id)
            if before is None:
                raise self._conversation_not_found(conversation_id)
        response = OpenResponse(self._index, owner, id, before)
        try:
            items = items_until(None if before is None else before.turn)
            response.context = await read_items(self._index.backend, items)
        except BaseException:
            response.close()
            raise
        return response

    async def get(self, owner: str, id: str) -> StoredResponse:
        """A response as it is now.

        Raises:
            StoredObjectNotFound: the id is unknown, or another owner's.
            StoreUnavailable: it cannot be read.
        """
        entry = self._find(owner, id)
        while not entry.is_removed:
            version = entry.version
            outputs = [] if entry.turn is None else list(entry.turn.items[entry.turn.inputs :])
            keys = [data_key(id), *item_keys(item.key for item in outputs)]
            data, *parts = await self._index.backend.read(keys)
            if entry.version == version and data is not None and None not in parts:
                return StoredResponse(
                    id=id,
                    created_at=entry.created_at,
                    status=entry.status,
                    is_background=entry.is_background,
                    data=data,
                    outputs=to_stored(outputs, parts),
                    log=entry.log,
                )
        raise self._index.ids.not_found("response", id)

    async def list_inputs(
        self, owner: str, id: str, query: PageQuery, *, with_context: bool = True
    ) -> ItemPage:
        """The items that a response was made from, those before its own input included.

        Raises:
            StoredObjectNotFound: the id is unknown, or another owner's.
            InvalidRequest: the query is invalid.
            StoreUnavailable: the items cannot be read.
        """
        turn = self._find(owner, id).turn
        items: list[Item] = []
        if turn is not None:
            items = items_until(turn.parent) if with_context else []
            items += turn.items[: turn.inputs]
        page, has_more = select_page(items, query)
        return ItemPage(await read_items(self._index.backend, page), has_more)

    async def find_item(self, owner: str, item_id: str) -> StoredItem | None:
        """The newest item of an owner with this id, for `item_reference`.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        self._index.drop_expired()
        item = self._index.graph.find(owner, item_id)
        if item is None:
            return None
        (data,) = await self._index.backend.read(item_keys([item.key]))
        return None if data is None else StoredItem(item.id, data, item.key)

    async def delete(self, owner: str, id: str) -> None:
        """Remove a response, with what only it holds. One that runs is to be cancelled first.

        Raises:
            StoredObjectNotFound: the id is unknown, or another owner's.
            StoreUnavailable: it could not be removed from the disk.
        """
        self._index.remove(self._find(owner, id))
        await self._index.commit()

    def _find(self, owner: str, id: str) -> Entry:
        entry = self._index.find("response", owner, id)
        if entry is None:
            raise self._index.ids.not_found("response", id)
        return entry

    def _conversation_not_found(self, id: str) -> MlxdError:
        """The error for the conversation of a request: sent to the wrong replica, it is invalid."""
        error = self._index.ids.not_found("conversation", id)
        if not self._index.ids.explain(id):
            return error
        return InvalidRequest(error.message, param="conversation", code="conversation_not_found")


def previous_response_not_found(id: str, reason: str = "") -> InvalidRequest:
    """The error for an unknown `previous_response_id`, in the same words for another owner's."""
    reason = reason or (
        "it was evicted, deleted or never stored, it expired, or the service was restarted"
    )
    return InvalidRequest(
        f"Previous response with id '{id[:100]}' not found: {reason}.",
        param="previous_response_id",
        code="previous_response_not_found",
    )
