"""Collects the events of one request for its handler: one reader, bounded.

To wake the reader for each token costs the service more than to encode the token. So a reader may
leave a shortcut, which takes what arrives while the reader waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from protocol.events import ArgumentsDelta, Event, TextDelta
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


def merge_deltas(events: list[Event]) -> list[Event]:
    """The same content in fewer events: consecutive deltas of a sequence and kind are merged.

    A delta without text only carries tokens. It is merged into the last delta of its
    sequence, of any kind.
    """
    merged: list[Event] = []
    # The positions in `merged` of each sequence's last event and last text delta.
    last_event: dict[int, int] = {}
    last_delta: dict[int, int] = {}
    for event in events:
        position = last_event.get(event.id)
        earlier = None if position is None else merged[position]
        match event, earlier:
            case TextDelta(text="", id=id), _ if id in last_delta:
                position = last_delta[id]
                earlier = merged[position]
                assert isinstance(earlier, TextDelta)
                merged[position] = concatenate(earlier, event)
            case TextDelta(), TextDelta() if position is not None and can_merge(earlier, event):
                merged[position] = concatenate(earlier, event)
            case ArgumentsDelta(id=id, index=index, text=text), ArgumentsDelta() if (
                position is not None and index == earlier.index
            ):
                merged[position] = ArgumentsDelta(id, index, earlier.text + text)
            case _:
                last_event[event.id] = len(merged)
                if isinstance(event, TextDelta):
                    last_delta[event.id] = len(merged)
                merged.append(event)
    return merged


def can_merge(earlier: TextDelta, later: TextDelta) -> bool:
    """Whether both deltas are of one kind; an earlier one without text is of any kind."""
    return earlier.kind == later.kind or not earlier.text


def concatenate(earlier: TextDelta, later: TextDelta) -> TextDelta:
    """Both deltas as one."""
    return TextDelta(
        id=earlier.id,
        text=earlier.text + later.text,
        tokens=earlier.tokens + later.tokens,
        logprobs=earlier.logprobs + later.logprobs,
        settled=later.settled,
        kind=later.kind if later.text else earlier.kind,
    )
