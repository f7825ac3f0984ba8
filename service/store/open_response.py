"""A response while it is made: it keeps its context, and is stored when it ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from service.errors import InvalidRequest, Overloaded, StoreUnavailable
from service.store.backends.rows import Status, StoredItem
from service.store.index import ENTRY_BYTES, Entry, Owner, StoreIndex
from service.store.items import Item
from service.store.replay_log import ReplayLog

logger = logging.getLogger(__name__)

# A conversation gets the items of a response that ended so.
ADDED_TO_CONVERSATION: tuple[Status, ...] = ("completed", "incomplete")


class OpenResponse:
    """A response that is being made. Leaving the `async with` closes it, and its log.

    `context` are the items before its input, of the previous response or the conversation.
    """

    def __init__(self, index: StoreIndex, owner: str, id: str, before: Entry | None) -> None:
        self.id = id
        self.context: list[StoredItem] = []
        self.inputs: Sequence[StoredItem] = ()
        self.created_at = index.clock.unix_s()
        self._index = index
        self._owner: Owner = index.owner(owner)
        self._entry: Entry | None = None
        self._is_closed = False
        self._conversation: Entry | None = None
        self._before = None if before is None else before.turn
        if before is not None and before.kind == "conversation":
            self._conversation = before
        # Where its owner has pinned too much, its context may be evicted: then it is not stored.
        self._is_pinned = index.may_pin(self._owner, index.graph.pin_cost(self._before))
        if self._is_pinned:
            index.graph.pin(self._before)
            if self._conversation is not None:
                index.use(self._conversation)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if self._entry is not None and self._entry.log is not None:
            self._entry.log.close()

    @property
    def log(self) -> ReplayLog:
        """The events of a queued response."""
        assert self._entry is not None
        assert self._entry.log is not None
        return self._entry.log

    @property
    def is_deleted(self) -> bool:
        """Whether the response was queued, and has been deleted since."""
        return self._entry is not None and self._entry.is_removed

    async def queue(self, data: bytes) -> None:
        """Keep the response from now on, with the status `queued`: it can be read.

        Raises:
            InvalidRequest: it needs more than the store may hold.
            Overloaded: its owner has too many responses that wait or run.
            StoreUnavailable: it could not be written.
        """
        index, graph = self._index, self._index.graph
        size = ENTRY_BYTES + len(self.id) + len(data) + graph.cost(self.inputs)
        if 2 * size > index.max_bytes:
            raise InvalidRequest(
                "This response is too large to be kept in the background (response_store_bytes).",
                param="background",
                code="response_too_large",
            )
        has_room = self._is_pinned and index.may_pin(self._owner, size)
        if not (has_room and index.make_room(self._owner, size)):
            raise Overloaded(
                "Your responses that wait or run take the room of the response store.",
                code="response_store_full",
            )
        turn = graph.add_turn(self._owner, self._before, self.inputs, len(self.inputs))
        self._entry = index.add(
            "response",
            self.id,
            self._owner,
            status="queued",
            data=data,
            turn=turn,
            created_at=self.created_at,
            is_background=True,
        )
        graph.release(turn)
        self._entry.log = ReplayLog(has_room=self._has_room, count=self._count)
        try:
            await index.commit()
        except BaseException:
            index.remove(self._entry)
            index.apply()
            raise

    async def update(self, status: Status, data: bytes) -> None:
        """Replace the object of a queued response; nothing if it has been deleted.

        Raises:
            StoreUnavailable: it could not be written; it can be read until the service ends.
        """
        entry = self._entry
        assert entry is not None
        if not entry.is_removed:
            # It is kept to its end, also without room for it.
            self._index.make_room(self._owner, max(0, len(data) - entry.data_bytes))
            self._index.set_data(entry, data)
            self._index.set_status(entry, status)
            await self._index.commit()

    async def finish(
        self,
        status: Status,
        data: bytes,
        outputs: Sequence[StoredItem],
        *,
        is_stored: bool = True,
    ) -> bool:
        """End the response, keep it if `is_stored`, and add its items to its conversation.

        Returns whether it is kept. It is not where it is larger than the store, where its context
        is evicted, and where it cannot be written; the log says so.
        """
        is_kept = is_stored and not self.is_deleted and self._keep(status, data, outputs)
        if not is_kept and self._entry is not None:
            self._index.remove(self._entry)
        if status in ADDED_TO_CONVERSATION:
            self._add_to_conversation(outputs)
        self.close()
        try:
            await self._index.commit()
        except StoreUnavailable as error:
            logger.error("response %s is not stored: %s", self.id, error)
            if self._entry is not None:
                self._index.remove(self._entry)
                self._index.apply()
            return False
        return is_kept

    def close(self) -> None:
        """End the use of the context; a queued response that is not finished is removed."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_pinned:
            self._index.graph.unpin(self._before)
            if self._conversation is not None:
                self._index.end_use(self._conversation)
        entry = self._entry
        if entry is not None and entry.uses:
            self._index.remove(entry)
        self._index.apply()

    # ---------------------------------------------------------------- parts

    def _keep(self, status: Status, data: bytes, outputs: Sequence[StoredItem]) -> bool:
        """Store the response and its items; False if there is no room, or no context."""
        index, graph, entry = self._index, self._index.graph, self._entry
        if not index.max_bytes:
            return False
        inputs = self.inputs if entry is None or entry.turn is None else entry.turn.items
        size = graph.cost(outputs) + len(data)
        if entry is None:
            size += graph.cost(self.inputs) + ENTRY_BYTES + len(self.id)
        if not index.make_room(self._owner, size):
            logger.warning("response %s is not stored: no room for %d bytes", self.id, size)
            return False
        if not self._has_context():
            logger.warning("response %s is not stored: its context was evicted", self.id)
            return False
        turn = graph.add_turn(self._owner, self._before, [*inputs, *outputs], len(inputs))
        if entry is None:
            self._entry = index.add(
                "response",
                self.id,
                self._owner,
                status=status,
                data=data,
                turn=turn,
                created_at=self.created_at,
            )
        else:
            index.set_turn(entry, turn)
            index.set_data(entry, data)
            index.set_status(entry, status)
        graph.release(turn)
        return True

    def _add_to_conversation(self, outputs: Sequence[StoredItem]) -> None:
        """Add the items after those that the conversation has by now."""
        conversation, graph = self._conversation, self._index.graph
        if conversation is None or conversation.is_removed:
            return
        own = None if self._entry is None or self._entry.is_removed else self._entry.turn
        if own is not None and own.parent is conversation.turn:
            self._index.set_turn(conversation, own)
            return
        # Neither may be evicted to make room for the items.
        self._index.use(conversation)
        graph.hold(own)
        items: Sequence[StoredItem | Item] = [*self.inputs, *outputs] if own is None else own.items
        if self._index.make_room(self._owner, graph.cost(items)):
            turn = graph.add_turn(self._owner, conversation.turn, items, 0)
            self._index.set_turn(conversation, turn)
            graph.release(turn)
        else:
            logger.warning("the items of response %s have no room in its conversation", self.id)
        graph.release(own)
        self._index.end_use(conversation)

    def _has_context(self) -> bool:
        before = self._before
        return before is None or self._index.graph.turns.get(before.key) is before

    def _has_room(self, size: int) -> bool:
        entry = self._entry
        if entry is None or entry.is_removed or not entry.uses:
            return True
        return self._index.may_pin(self._owner, size) and self._index.make_room(self._owner, size)

    def _count(self, size: int) -> None:
        if self._entry is not None:
            self._index.grow_log(self._entry, size)
