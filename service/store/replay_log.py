"""The events of one background response, read again and then live by any number of readers."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable

from service.errors import InvalidRequest

MAX_LOG_BYTES = 8 * 1024 * 1024
# What an event takes in memory besides its bytes.
EVENT_BYTES = 64
# How many events a reader takes at a time.
MAX_AHEAD = 256


class ReplayLog:
    """Encoded events with the numbers 0, 1, 2, ...; the oldest are dropped beyond `max_bytes`.

    `has_room` says whether there is room for more bytes; without it the oldest events make room
    too. What was added last is kept in any case, for those who read live. Each change of the log's
    size is passed to `count`.
    """

    def __init__(
        self,
        max_bytes: int = MAX_LOG_BYTES,
        has_room: Callable[[int], bool] = lambda _: True,
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._max_bytes = max_bytes
        self._has_room = has_room
        self._count = count
        self._events: deque[bytes] = deque()
        self._first = 0
        self._bytes = 0
        self._is_closed = False
        self._changed = asyncio.Event()

    @property
    def size(self) -> int:
        """The bytes of all events that are kept."""
        return self._bytes

    @property
    def next_number(self) -> int:
        """The number of the next event."""
        return self._first + len(self._events)

    def append(self, *events: bytes) -> None:
        """Add the events from the number `next_number` on, and wake the readers.

        All of them are kept until the next ones come: no reader could have read one by then.
        """
        size = sum(EVENT_BYTES + len(event) for event in events)
        while self._bytes + size > self._max_bytes and self._events:
            self._drop_oldest()
        while self._events and not self._has_room(size):
            self._drop_oldest()
        self._events += events
        self._bytes += size
        self._count(size)
        self._wake()

    def close(self) -> None:
        """No event follows: readers end after the last one."""
        self._is_closed = True
        self._wake()

    def check_position(self, starting_after: int) -> None:
        """Check that the events after this number can be read.

        Raises:
            InvalidRequest: some of them are dropped.
        """
        if starting_after + 1 < self._first:
            raise InvalidRequest(
                f"The events up to {self._first - 1} of this response are no longer kept; "
                "retrieve the response without stream.",
                param="starting_after",
                code="events_not_kept",
            )

    async def read(self, starting_after: int = -1) -> AsyncIterator[bytes]:
        """The events after this number, then each new one, until `close`.

        Raises:
            InvalidRequest: the next event is dropped, at the start or for a slow reader.
        """
        number = starting_after + 1
        while True:
            self.check_position(number - 1)
            if number < self.next_number:
                start = number - self._first
                # A reader has these, also where they are dropped before it has sent them all.
                for event in list(itertools.islice(self._events, start, start + MAX_AHEAD)):
                    yield event
                    number += 1
            elif self._is_closed:
                return
            else:
                await self._changed.wait()

    def _drop_oldest(self) -> None:
        size = EVENT_BYTES + len(self._events.popleft())
        self._first += 1
        self._bytes -= size
        self._count(-size)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
