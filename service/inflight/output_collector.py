"""Collects the events of one request for its handler: one reader, bounded.

To wake the reader for each token costs the service more than to encode the token. So a reader may
leave a shortcut, which takes what arrives while the reader waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from protocol.deltas import merge_deltas
from protocol.events import Event
from service.errors import copy_error

# A reader that is this far behind gets its text in fewer, longer deltas.
MERGE_ABOVE_EVENTS = 64

# Takes all of these events, or none of them.
Shortcut = Callable[[list[Event]], bool]


class OutputCollector:
    """Events in order. The writer never blocks: if the reader is slow, its deltas are merged."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._woken = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        # Called only while the reader waits in `take`.
        self.shortcut: Shortcut | None = None

    def put(self, event: Event) -> None:
        """Add an event and deliver it."""
        self.add(event)
        self.deliver()

    def add(self, event: Event) -> bool:
        """Add an event; whether `deliver` must be called, once no more events are to be added."""
        events = self._events
        events.append(event)
        if len(events) > MERGE_ABOVE_EVENTS:
            self._events = merge_deltas(events)
        return len(events) == 1

    def deliver(self) -> None:
        """Pass what was added to the shortcut, or wake the reader."""
        waiter = self._waiter
        if self.shortcut is None or waiter is None or waiter.done():
            self._notify()
            return
        try:
            is_taken = self.shortcut(self._events)
        except Exception as error:
            self._events = []
            self.close(error)
            return
        if is_taken:
            self._events = []
        else:
            self._notify()

    def wake(self) -> None:
        """Wake the reader without an event, so that it can send a keep-alive."""
        self._woken = True
        self._notify()

    def close(self, error: Exception) -> None:
        """Raise `error` in the reader once all events are taken; only the first error counts."""
        self._error = self._error or error
        self._notify()

    async def take(self) -> list[Event]:
        """All events since the last call; empty only after `wake`.

        Raises:
            Exception: a copy of the error that the collector was closed with.
        """
        if not (self._events or self._woken or self._error):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None and not self._events:
            raise copy_error(self._error)
        events, self._events, self._woken = self._events, [], False
        return events

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
