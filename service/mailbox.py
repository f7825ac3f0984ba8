"""Where one request's events wait for its handler: one slot, one reader, bounded."""

from __future__ import annotations

import asyncio

from protocol.messages import Delta, Event

# A reader this far behind gets its text in fewer, longer pieces.
MERGE_ABOVE_EVENTS = 64


class Mailbox:
    """Events in order. The writer is never blocked: a slow reader's text is merged instead."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._nudged = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        """Add an event and wake the reader."""
        self._events.append(event)
        if len(self._events) > MERGE_ABOVE_EVENTS:
            self._events = merge_deltas(self._events)
        self._wake()

    def nudge(self) -> None:
        """Wake the reader with nothing, so that it can show a sign of life."""
        self._nudged = True
        self._wake()

    def close(self, error: Exception) -> None:
        """End the reader with `error` once it has taken what is here; the first error counts."""
        self._error = self._error or error
        self._wake()

    async def take(self) -> list[Event]:
        """All events since the last call, at least one unless nudged.

        Raises:
            Exception: the one the mailbox was closed with.
        """
        if not (self._events or self._nudged or self._error):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None and not self._events:
            raise self._error
        events, self._events, self._nudged = self._events, [], False
        return events

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def merge_deltas(events: list[Event]) -> list[Event]:
    """The same text in fewer events: the deltas of each sequence joined into its first one."""
    merged: list[Event] = []
    place_of: dict[int, int] = {}
    for event in events:
        match event:
            case Delta(id, text, tokens) if id in place_of:
                earlier = merged[place_of[id]]
                assert isinstance(earlier, Delta)
                merged[place_of[id]] = Delta(id, earlier.text + text, earlier.tokens + tokens)
            case Delta(id):
                place_of[id] = len(merged)
                merged.append(event)
            case _:
                merged.append(event)
    return merged
