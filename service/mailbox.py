"""Where one request's events wait for its handler: one slot, one reader, bounded."""

from __future__ import annotations

import asyncio

from protocol.messages import CallArguments, Delta, Event

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
            case Delta(text="", id=id), _ if id in last_delta:
                place = last_delta[id]
                earlier = merged[place]
                assert isinstance(earlier, Delta)
                merged[place] = join_deltas(earlier, event)
            case Delta(), Delta() if place is not None and joinable(earlier, event):
                merged[place] = join_deltas(earlier, event)
            case CallArguments(id, index, text), CallArguments(_, other, before) if (
                place is not None and index == other
            ):
                merged[place] = CallArguments(id, index, before + text)
            case _:
                last[event.id] = len(merged)
                if isinstance(event, Delta):
                    last_delta[event.id] = len(merged)
                merged.append(event)
    return merged


def joinable(earlier: Delta, later: Delta) -> bool:
    """Whether both are of one channel; one without text is of any."""
    return earlier.channel == later.channel or not earlier.text


def join_deltas(earlier: Delta, later: Delta) -> Delta:
    """Both as one."""
    return Delta(
        earlier.id,
        earlier.text + later.text,
        earlier.tokens + later.tokens,
        earlier.logprobs + later.logprobs,
        later.settled,
        later.channel if later.text else earlier.channel,
    )
