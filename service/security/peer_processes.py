"""Which local process has the other end of a loopback connection.

A process may open any number of connections, so that counting connections would give it as
many shares as it likes. The processes are looked up by the system's tables, in a thread.
One look-up at a time serves all connections that wait for one, so that clients that connect faster
than look-ups run do not delay others. A process that the system does not show to this user is not
found.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable

import psutil

from service.transport.clients import Peer
from service.transport.socket_owners import (
    Connections,
    Ports,
    PortsByProcess,
    list_ports,
    read_connections,
)
from service.transport.turns import Turns

# An ephemeral port is not used again by another process within this time, as a rule.
KEEP_S = 30.0
# A look-up for other connections finds one again once this much time has passed.
RENEW_S = KEEP_S / 2
# Of the connections whose process was asked for; with more, a look-up reads all of the system.
MAX_OPEN = 4096
# A look-up in all processes takes tens of milliseconds.
FULL_SCAN_INTERVAL_S = 1.0
MAX_KNOWN_PROCESSES = 32
# After a look-up there is none for this many times its processor time, so that look-ups for a
# client that opens hundreds of connections a second take a fifth of a core at most. Where many
# wait, there is none for this time, so that one is for many.
REST_TIMES = 4
MANY = 4
LEAST_REST_OF_MANY_S = 0.05
# A connection whose process is not found by then goes without: a slow look-up stops no request.
MAX_WAIT_S = 0.5
# The name of its task.
LOOK_UP = "processes-look-up"


class PeerProcesses:
    """The ids of processes by the port of their connection to this service."""

    def __init__(
        self,
        read_connections: Callable[[Collection[Peer]], Connections | None] = read_connections,
        list_ports: Callable[[Iterable[int], Connections | None], PortsByProcess] = list_ports,
        list_processes: Callable[[], list[int]] = psutil.pids,
        now: Callable[[], float] = time.monotonic,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self._read_connections = read_connections
        self._list_ports = list_ports
        self._list_processes = list_processes
        self._now = now
        self._max_wait_s = max_wait_s
        self._lock = asyncio.Lock()
        self._turns = Turns()
        # Called with the ports and the process of each connection that a look-up finds, whether a
        # request waits for it or not.
        self.report: Callable[[Ports, int], None] = lambda ports, pid: None
        # By both ports: when it was found, and the process.
        self._found: dict[Ports, tuple[float, int]] = {}
        # The connections whose process was asked for, and that are open as far as is known.
        self._open: dict[Ports, Peer] = {}
        # What the next look-up is for; that look-up, once anyone waits for it.
        self._wanted: dict[Ports, Peer] = {}
        self._next: asyncio.Task[None] | None = None
        # What the look-up in progress has found, what is closed, and what it was too early to look
        # for everywhere.
        self._newly_found: dict[Ports, int] = {}
        self._closed: set[Ports] = set()
        self._missed: dict[Ports, Peer] = {}
        # The processes with connections, the last one that was found first.
        self._known: list[int] = []
        self._full_scan_at = -FULL_SCAN_INTERVAL_S
        self._rests_until = now()

    def cached(self, peer: Peer) -> int | None:
        """The process if it was looked up within the last `KEEP_S`."""
        if len(self._open) < MAX_OPEN:
            self._open[peer.ports] = peer
        found_at, pid = self._found.get(peer.ports, (-KEEP_S, 0))
        return pid if self._now() - found_at < KEEP_S else None

    async def find(self, peer: Peer) -> int | None:
        """The process with this connection; None if the system does not show it in time."""
        if (pid := self.cached(peer)) is not None:
            return pid
        self._wanted[peer.ports] = peer
        await asyncio.wait([self._begin_look_up()], timeout=self._max_wait_s)
        # Those of all that waited would go on in the same round of the event loop.
        await self._turns.take()
        return self.cached(peer)

    def _begin_look_up(self) -> asyncio.Task[None]:
        if self._next is None:
            self._next = asyncio.create_task(self._look_up(), name=LOOK_UP)
        return self._next

    async def _look_up(self) -> None:
        """Look for all that wait by the time that it begins."""
        async with self._lock:
            await asyncio.sleep(max(0.0, self._rests_until - self._now()))
            self._next = None
            wanted, self._wanted = self._wanted, {}
            worked_s = await asyncio.to_thread(self._scan, wanted)
            for ports in self._closed:
                self._open.pop(ports, None)
            for ports, pid in self._newly_found.items():
                self.report(ports, pid)
            least_s = LEAST_REST_OF_MANY_S if len(wanted) >= MANY else 0.0
            self._rests_until = self._now() + max(REST_TIMES * worked_s, least_s)
            self._look_up_missed()

    def _look_up_missed(self) -> None:
        """Look again, as soon as all processes may be looked at, for what was not found in some."""
        if self._missed:
            self._wanted |= self._missed
            due_s = max(0.0, self._full_scan_at + FULL_SCAN_INTERVAL_S - self._now())
            asyncio.get_running_loop().call_later(due_s, self._look_up_wanted)

    def _look_up_wanted(self) -> None:
        if self._wanted:
            self._begin_look_up()

    def _scan(self, wanted: dict[Ports, Peer]) -> float:
        """Record the processes of connections, until these are found, and what is closed.

        It returns the processor seconds that it took.
        """
        began_s = time.thread_time()
        self._forget_old()
        self._newly_found = {}
        asked = self._list_due(wanted)
        connections = self._read_connections(asked.values())
        # Where psutil reads them, it lists all of a process.
        self._closed = asked.keys() - (connections or {}).values()
        for pid, found in self._list_ports(self._known, connections):
            self._record(pid, found, wanted)
            if not wanted.keys() - self._found.keys():
                break
        is_due = self._now() - self._full_scan_at >= FULL_SCAN_INTERVAL_S
        if is_due and wanted.keys() - self._found.keys():
            self._full_scan_at = self._now()
            pids = self._list_processes()
            # More may have come meanwhile.
            connections = self._read_connections(self._list_due(wanted).values())
            for pid, found in self._list_ports(pids, connections):
                self._record(pid, found, wanted)
        missed = () if is_due else wanted.keys() - self._found.keys()
        self._missed = {ports: wanted[ports] for ports in missed}
        return time.thread_time() - began_s

    def _list_due(self, wanted: dict[Ports, Peer]) -> dict[Ports, Peer]:
        """These connections, and those that have no process or are soon forgotten."""
        known = self._open | wanted
        if len(known) >= MAX_OPEN:
            return known
        limit = self._now() - RENEW_S
        recent = {ports for ports, (found_at, _) in self._found.items() if found_at > limit}
        return {ports: peer for ports, peer in known.items() if ports not in recent}

    def _record(self, pid: int, connections: Iterable[Ports], wanted: Iterable[Ports]) -> None:
        server_ports = {server_port for _, server_port in wanted}
        found = [ports for ports in connections if ports[1] in server_ports]
        self._newly_found.update((ports, pid) for ports in found if ports not in self._found)
        self._found.update(dict.fromkeys(found, (self._now(), pid)))
        if found and pid not in self._known:
            self._known = [pid, *self._known[: MAX_KNOWN_PROCESSES - 1]]

    def _forget_old(self) -> None:
        limit = self._now() - KEEP_S
        self._found = {key: found for key, found in self._found.items() if found[0] > limit}
