"""Where one request's events wait for its handler: one slot, one reader, bounded."""

from __future__ import annotations

import asyncio

from protocol.messages import ArgumentsDelta, Event, TextDelta

# A reader this far behind gets its text in fewer, longer pieces.
MERGE_ABOVE_EVENTS = 64


class OutputCollector:
    """Events in order. The writer is never blocked: a slow reader's text is merged instead."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._woken = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        """Add an event and wake the reader."""
        self._events.append(event)
        if len(self._events) > MERGE_ABOVE_EVENTS:
            self._events = merge_deltas(self._events)
        self._wake()

    def wake(self) -> None:
        """Wake the reader with nothing, so that it can show a sign of life."""
        self._woken = True
        self._wake()

    def close(self, error: Exception) -> None:
        """End the reader with `error` once it has taken what is here; the first error counts."""
        self._error = self._error or error
        self._wake()

    async def take(self) -> list[Event]:
        """All events since the last call, at least one unless woken.

        Raises:
            Exception: the one the collector was closed with.
        """
        if not (self._events or self._woken or self._error):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None and not self._events:
            raise self._error
        events, self._events, self._woken = self._events, [], False
        return events

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def merge_deltas(events: list[Event]) -> list[Event]:
    """The same in fewer events: what follows in a sequence and is of one kind is joined.

    A delta without text joins whatever delta came before, because it only carries tokens.
    """
    merged: list[Event] = []
    last: dict[int, int] = {}
    last_delta: dict[int, int] = {}
    for event in events:
        place = last.get(event.id)
        earlier = None if place is None else merged[place]
        match event, earlier:
            case TextDelta(text="", id=id), _ if id in last_delta:
                place = last_delta[id]
                earlier = merged[place]
                assert isinstance(earlier, TextDelta)
                merged[place] = join_deltas(earlier, event)
            case TextDelta(), TextDelta() if place is not None and joinable(earlier, event):
                merged[place] = join_deltas(earlier, event)
            case ArgumentsDelta(id, index, text), ArgumentsDelta(_, other, before) if (
                place is not None and index == other
            ):
                merged[place] = ArgumentsDelta(id, index, before + text)
            case _:
                last[event.id] = len(merged)
                if isinstance(event, TextDelta):
                    last_delta[event.id] = len(merged)
                merged.append(event)
    return merged


def joinable(earlier: TextDelta, later: TextDelta) -> bool:
    """Whether both are of one channel; one without text is of any."""
    return earlier.kind == later.kind or not earlier.text


def join_deltas(earlier: TextDelta, later: TextDelta) -> TextDelta:
    """Both as one."""
    return TextDelta(
        earlier.id,
        earlier.text + later.text,
        earlier.tokens + later.tokens,
        earlier.logprobs + later.logprobs,
        later.settled,
        later.kind if later.text else earlier.kind,
    )
