"""Which local process has the other end of a loopback connection.

A process may open any number of connections, so that counting connections would give it as
many shares as it likes. The processes are looked up by the system's tables (psutil), in a thread,
one look-up at a time for all connections that wait for one: clients that come and go faster than
they can be looked up delay nobody. Processes that the system does not show to this user have no
name here.
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
# After a look-up there is none for this many times its processor time, so that look-ups for a
# client that opens hundreds of connections a second take a fifth of a core at most.
REST_TIMES = 4
# A connection whose process is not found by then goes without: a slow look-up stops no request.
MAX_WAIT_S = 0.5

# (process id, its port, the port at the other end) of each connection.
Connections = Iterator[tuple[int, int, int]]
# A connection's port, and the service's.
Ports = tuple[int, int]


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
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self._connections_of = connections_of
        self._all_connections = all_connections
        self._now = now
        self._max_wait_s = max_wait_s
        self._lock = asyncio.Lock()
        # By both ports: when it was found, and the process.
        self._found: dict[Ports, tuple[float, int]] = {}
        # What the next look-up is for; that look-up, once anyone waits for it.
        self._wanted: set[Ports] = set()
        self._next: asyncio.Task[None] | None = None
        # The processes with connections, the last one that was found first.
        self._known: list[int] = []
        self._full_scan_at = -FULL_SCAN_INTERVAL_S
        self._rests_until = now()

    def cached(self, port: int, server_port: int) -> int | None:
        """The process if it was looked up within the last `KEEP_S`."""
        found_at, pid = self._found.get((port, server_port), (-KEEP_S, 0))
        return pid if self._now() - found_at < KEEP_S else None

    async def find(self, port: int, server_port: int) -> int | None:
        """The process with this connection; None if the system does not show it in time."""
        if (pid := self.cached(port, server_port)) is not None:
            return pid
        self._wanted.add((port, server_port))
        if self._next is None:
            self._next = asyncio.create_task(self._look_up(), name="processes-look-up")
        await asyncio.wait([self._next], timeout=self._max_wait_s)
        return self.cached(port, server_port)

    async def _look_up(self) -> None:
        """Look for all that wait by the time that it begins."""
        async with self._lock:
            await asyncio.sleep(max(0.0, self._rests_until - self._now()))
            self._next = None
            wanted, self._wanted = self._wanted, set()
            worked_s = await asyncio.to_thread(self._scan, wanted)
            self._rests_until = self._now() + REST_TIMES * worked_s

    def _scan(self, wanted: set[Ports]) -> float:
        """Record the processes of these connections; the processor seconds that it took."""
        began_s = time.thread_time()
        self._forget_old()
        server_ports = {server_port for _, server_port in wanted}
        for pid in self._known:
            if not wanted - self._found.keys():
                break
            self._record(self._connections_of(pid), server_ports)
        is_due = self._now() - self._full_scan_at >= FULL_SCAN_INTERVAL_S
        if is_due and wanted - self._found.keys():
            self._full_scan_at = self._now()
            self._record(self._all_connections(), server_ports)
        return time.thread_time() - began_s

    def _record(self, connections: Connections, server_ports: set[int]) -> None:
        for pid, port, server_port in connections:
            if server_port in server_ports:
                self._found[port, server_port] = (self._now(), pid)
                if pid not in self._known:
                    self._known = [pid, *self._known[: MAX_KNOWN_PROCESSES - 1]]

    def _forget_old(self) -> None:
        limit = self._now() - KEEP_S
        self._found = {key: found for key, found in self._found.items() if found[0] > limit}
