"""Which local process has the other end of a loopback connection.

A process may open any number of connections, so that counting connections would give it as
many shares as it likes. The processes are looked up by the system's tables (psutil), in a thread,
one look-up at a time; a look-up finds all connections of a process at once. Processes that the
system does not show to this user have no name here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import psutil

# An ephemeral port is not used again by another process within this time, as a rule.
KEEP_S = 30.0
# A look-up in all processes takes tens of milliseconds.
FULL_SCAN_INTERVAL_S = 1.0
MAX_KNOWN_PROCESSES = 32
# After a look-up there is none for this many times as long, so that look-ups for a client that
# opens hundreds of connections a second take a fifth of a core at most. The next one is for all.
REST_TIMES = 4

# (process id, its port, the port at the other end) of each connection.
Connections = Iterator[tuple[int, int, int]]


def connections_of(pid: int) -> Connections:
    """The TCP connections of one process; none if they are not shown to this user."""
    with contextlib.suppress(psutil.Error):
        for each in psutil.Process(pid).net_connections("tcp"):
            if each.raddr:
                yield pid, each.laddr.port, each.raddr.port


def all_connections() -> Connections:
    """The TCP connections of all processes that are shown to this user."""
    if not psutil.LINUX:
        # Only root may read the whole table on macOS.
        for pid in psutil.pids():
            yield from connections_of(pid)
        return
    for each in psutil.net_connections("tcp"):
        if each.pid is not None and each.laddr and each.raddr:
            yield each.pid, each.laddr.port, each.raddr.port


class PeerProcesses:
    """The ids of processes by the port of their connection to this service."""

    def __init__(
        self,
        connections_of: Callable[[int], Connections] = connections_of,
        all_connections: Callable[[], Connections] = all_connections,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections_of = connections_of
        self._all_connections = all_connections
        self._now = now
        self._lock = asyncio.Lock()
        # By both ports: when it was found, and the process.
        self._found: dict[tuple[int, int], tuple[float, int]] = {}
        # The processes with connections, the last one that was found first.
        self._known: list[int] = []
        self._full_scan_at = -FULL_SCAN_INTERVAL_S
        self._rests_until = now()

    def cached(self, port: int, server_port: int) -> int | None:
        """The process if it was looked up within the last `KEEP_S`."""
        found_at, pid = self._found.get((port, server_port), (-KEEP_S, 0))
        return pid if self._now() - found_at < KEEP_S else None

    async def find(self, port: int, server_port: int) -> int | None:
        """The process with this connection; None if the system does not show it."""
        if (pid := self.cached(port, server_port)) is not None:
            return pid
        async with self._lock:
            # The look-up that this one waited for may have found it.
            if self.cached(port, server_port) is None:
                await asyncio.sleep(max(0.0, self._rests_until - self._now()))
                began_at = self._now()
                await asyncio.to_thread(self._scan, port, server_port)
                self._rests_until = self._now() + REST_TIMES * (self._now() - began_at)
        return self.cached(port, server_port)

    def _scan(self, port: int, server_port: int) -> None:
        self._forget_old()
        for pid in self._known:
            self._record(self._connections_of(pid), server_port)
            if self.cached(port, server_port) is not None:
                return
        if self._now() - self._full_scan_at >= FULL_SCAN_INTERVAL_S:
            self._full_scan_at = self._now()
            self._record(self._all_connections(), server_port)

    def _record(self, connections: Connections, server_port: int) -> None:
        for pid, port, other_port in connections:
            if other_port == server_port:
                self._found[port, server_port] = (self._now(), pid)
                if pid not in self._known:
                    self._known = [pid, *self._known[: MAX_KNOWN_PROCESSES - 1]]

    def _forget_old(self) -> None:
        limit = self._now() - KEEP_S
        self._found = {key: found for key, found in self._found.items() if found[0] > limit}
