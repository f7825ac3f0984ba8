"""One budget for the memory of all request bodies, from their arrival until their answers end.

Each `RequestReader` has a `BodyLease`. A body of at most `SMALL_BODY_BYTES` is not charged, so it
always has room. A larger one waits for room, the oldest request first, and its reader receives
nothing meanwhile. While a body waits:

- a sender that has sent nothing for `STALL_S` is dropped;
- after `PATIENCE_S`, or at once if nothing else can free memory, the slowest sender is dropped:
  the one with the fewest bytes per second of the time in which it was read;
- after `MAX_WAIT_S` the waiting request itself is dropped.

While bodies of several clients wait or are read, no client keeps more than half: the slowest
sender of a client above half is dropped at once for a body of another client, and the bodies of
clients below half have room first.

A dropped request gets 503. A body that is larger than the whole budget has room when it is the
only one. Everything runs on the event loop.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import time
from collections.abc import Callable, Iterable

from protocol.units import format_bytes
from service.errors import BodyMemoryFull, MlxdError

logger = logging.getLogger(__name__)

SMALL_BODY_BYTES = 64 * 1024
STALL_S = 1.0
PATIENCE_S = 2.0
MAX_WAIT_S = 10.0
# Each waiting connection holds up to 0.3 MB in buffers that the budget does not count.
MAX_WAITING = 64
CHECK_INTERVAL_S = 0.25
WARNING_INTERVAL_S = 10.0
MIN_READING_S = 0.001


class BodyLease:
    """What one request's body uses of the budget. `client` is who sent it, once it is known."""

    def __init__(
        self,
        budget: BodyBudget,
        on_drop: Callable[[MlxdError], None],
        *,
        number: int,
        opened_at: float,
    ) -> None:
        self.client = ""
        self.nbytes = 0
        self.complete = False
        self.closed = False
        self.number = number
        self.on_drop = on_drop
        # Set while the lease waits for room: how much it needs, since when, and the result.
        self.needed_bytes = 0
        self.waiting_since = 0.0
        self.granted: asyncio.Future[bool] | None = None
        self._budget = budget
        self._received_bytes = 0
        # Moved forward by the time of each wait.
        self._reading_since = opened_at
        self._progressed_at = opened_at

    def record(self, nbytes: int) -> None:
        """Note that the client has sent `nbytes` more."""
        self._received_bytes += nbytes
        self._progressed_at = self._budget.now()

    async def resize(self, nbytes: int) -> bool:
        """Use `nbytes` in all; waits until there is room. False if the lease is closed."""
        return await self._budget.resize(self, nbytes)

    def close(self) -> None:
        """Give everything back; a wait for room ends."""
        self._budget.close(self)

    def rate(self, now: float) -> float:
        """Received bytes per second of the time in which the body was read."""
        end = now if self.granted is None else self.waiting_since
        return self._received_bytes / max(end - self._reading_since, MIN_READING_S)

    def is_stalled(self, now: float) -> bool:
        """Whether it is being read and has received nothing for `STALL_S`."""
        reading = not self.complete and self.granted is None
        return reading and now - self._progressed_at >= STALL_S

    def end_wait(self, now: float) -> None:
        """The time of the wait is not the sender's."""
        waited_s = now - self.waiting_since
        self.granted = None
        self._reading_since += waited_s
        self._progressed_at += waited_s


class BodyBudget:
    """The leases of all requests within `limit_bytes`. `now` returns seconds."""

    def __init__(self, limit_bytes: int, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.used_bytes = 0
        self._limit_bytes = limit_bytes
        self._opened = 0
        self._charged: set[BodyLease] = set()
        # From the oldest request.
        self._waiting: list[BodyLease] = []
        self._timer: asyncio.TimerHandle | None = None
        self._warned_at = -WARNING_INTERVAL_S

    def open(self, on_drop: Callable[[MlxdError], None]) -> BodyLease:
        """A lease of nothing yet. If it is dropped, `on_drop` gets the error for its client."""
        self._opened += 1
        return BodyLease(self, on_drop, number=self._opened, opened_at=self.now())

    async def resize(self, lease: BodyLease, nbytes: int) -> bool:
        """Let `lease` use `nbytes`; waits until there is room. False if the lease is closed."""
        needed = nbytes if nbytes > SMALL_BODY_BYTES else 0
        if lease.closed:
            return False
        if needed <= lease.nbytes or (self._is_next(lease) and self._has_room(lease, needed)):
            self._charge(lease, needed)
            self._grant()
            return True
        if len(self._waiting) >= MAX_WAITING:
            self._drop(lease, "too many others wait for it")
            return False
        lease.needed_bytes, lease.waiting_since = needed, self.now()
        granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        lease.granted = granted
        bisect.insort(self._waiting, lease, key=lambda waiting: waiting.number)
        self.check()
        try:
            return await granted
        finally:
            self._end_wait(lease)

    def close(self, lease: BodyLease) -> None:
        """Free what `lease` uses; a wait of it ends."""
        if lease.closed:
            return
        lease.closed = True
        # The callback's owner has the lease: a cycle.
        lease.on_drop = ignore
        if lease.granted is not None and not lease.granted.done():
            lease.granted.set_result(False)
        self._end_wait(lease)
        self._charge(lease, 0)
        self._grant()

    def check(self) -> None:
        """Free memory for those that wait; it runs by a timer as long as any waits."""
        self._grant()
        now = self.now()
        for lease in list(self._waiting):
            if now - lease.waiting_since >= MAX_WAIT_S:
                self._drop(lease, f"none became free within {MAX_WAIT_S:g} seconds")
        while victim := self._find_victim(now):
            self._drop(victim, "this one arrived the slowest")
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(CHECK_INTERVAL_S, self.check)

    def _is_next(self, lease: BodyLease) -> bool:
        return not self._waiting or self._rank(lease) <= self._rank(self._first_waiting())

    def _first_waiting(self) -> BodyLease:
        """The one that gets room next: a client within its share first, then the oldest."""
        return min(self._waiting, key=self._rank)

    def _rank(self, lease: BodyLease) -> tuple[bool, int]:
        others_wait = any(waiting.client != lease.client for waiting in self._waiting)
        share = self._limit_bytes / 2
        above = others_wait and self._held_by(lease.client, but=lease) >= share
        return above, lease.number

    def _held_by(self, client: str, but: BodyLease | None = None) -> int:
        """The bytes that a client's leases use."""
        own = (each for each in self._charged if each.client == client and each is not but)
        return sum(each.nbytes for each in own)

    def _has_room(self, lease: BodyLease, needed: int, freed: int = 0) -> bool:
        others = self.used_bytes - lease.nbytes - freed
        return others == 0 or others + needed <= self._limit_bytes

    def _grant(self) -> None:
        while self._waiting and self._has_room(lease := self._first_waiting(), lease.needed_bytes):
            assert lease.granted is not None
            if not lease.granted.done():
                lease.granted.set_result(True)
                self._charge(lease, lease.needed_bytes)
            self._end_wait(lease)

    def _charge(self, lease: BodyLease, nbytes: int) -> None:
        self.used_bytes += nbytes - lease.nbytes
        lease.nbytes = nbytes
        if nbytes:
            self._charged.add(lease)
        else:
            self._charged.discard(lease)

    def _end_wait(self, lease: BodyLease) -> None:
        if lease.granted is not None:
            self._waiting.remove(lease)
            lease.end_wait(self.now())

    def _find_victim(self, now: float) -> BodyLease | None:
        """The sender to drop for the first one that waits; None as long as that would not help."""
        if not self._waiting:
            return None
        first = self._first_waiting()
        unfinished = {each for each in self._charged if not each.complete or each.granted}
        freed = sum(lease.nbytes for lease in unfinished - {first})
        if not self._has_room(first, first.needed_bytes, freed):
            return None
        candidates = {lease for lease in unfinished if lease.is_stalled(now)}
        candidates = candidates or self._above_share(unfinished, first.client)
        if not candidates:
            is_blocked = all(lease.granted for lease in self._charged)
            if not is_blocked and now - first.waiting_since < PATIENCE_S:
                return None
            candidates = unfinished | {first}
        return min(candidates, key=lambda lease: (lease.complete, lease.rate(now), -lease.number))

    def _above_share(self, leases: Iterable[BodyLease], client: str) -> set[BodyLease]:
        """Those of `leases` whose client uses more than half, unless it is `client`."""
        share = self._limit_bytes / 2
        others = (each for each in leases if each.client != client and each.nbytes)
        return {each for each in others if self._held_by(each.client) > share}

    def _drop(self, lease: BodyLease, reason: str) -> None:
        limit = format_bytes(self._limit_bytes)
        if self.now() - self._warned_at >= WARNING_INTERVAL_S:
            self._warned_at = self.now()
            logger.warning("request bodies need more than %s: the slowest get 503", limit)
        error = BodyMemoryFull(f"Request bodies use all of their memory ({limit}), and {reason}.")
        on_drop = lease.on_drop
        self.close(lease)
        on_drop(error)


def ignore(error: MlxdError) -> None:
    """Nobody has the lease any more."""
