"""The TCP connections of processes, by their ports.

On Linux the system's tables are read here: with 800 connections psutil (7.2) took 80 ms of
processor time, under the interpreter's lock, for what takes 26 ms here, half of it without the
lock. A client that opens hundreds of connections has the service look often. Use psutil alone when
it is as quick.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

# A connection's port, and that at its other end.
Ports = tuple[int, int]
# Of each process that is looked at in turn.
PortsByProcess = Iterator[tuple[int, list[Ports]]]

PROCESSES = Path("/proc")
TABLES = ("net/tcp", "net/tcp6")
# A line of a table: its number, the address and port of either end in hexadecimal, five columns,
# the user, a time-out, and the socket.
LINE = re.compile(
    r"(?m)^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:([0-9A-F]{4})(?: \S+){4} +\d+ +\d+ (\d+)"
)


def list_ports(pids: Sequence[int]) -> PortsByProcess:
    """The TCP connections of these processes; none of those that are not shown to this user."""
    if not psutil.LINUX:
        # Only root may read the whole table on macOS.
        yield from ((pid, list_ports_of(pid)) for pid in pids)
    elif pids:
        connections = read_connections()
        for pid in pids:
            yield pid, [connections[link] for link in read_links(pid) if link in connections]


def list_ports_of(pid: int) -> list[Ports]:
    """The TCP connections of one process."""
    found = []
    with contextlib.suppress(psutil.Error):
        for each in psutil.Process(pid).net_connections("tcp"):
            # A socket that listens has no other end.
            if each.raddr:
                found.append((each.laddr.port, each.raddr.port))  # noqa: PERF401 (for mypy)
    return found


def read_connections() -> dict[str, Ports]:
    """All TCP connections of this network, by what a file descriptor of a process links to."""
    found: dict[str, Ports] = {}
    for table in TABLES:
        # Without IPv6 there is no table of it.
        with contextlib.suppress(FileNotFoundError):
            text = (PROCESSES / "self" / table).read_text(encoding="ascii")
            for local, remote, socket in LINE.findall(text):
                # A socket that listens has no other end.
                if remote != "0000":
                    found[f"socket:[{socket}]"] = int(local, 16), int(remote, 16)
    return found


def read_links(pid: int) -> Iterator[str]:
    """What the file descriptors of a process link to; none if it is gone or not shown."""
    try:
        with os.scandir(PROCESSES / str(pid) / "fd") as descriptors:
            for descriptor in descriptors:
                # It may be closed meanwhile.
                with contextlib.suppress(OSError):
                    yield os.readlink(descriptor)  # noqa: PTH115 (a path would double the time)
    except OSError:
        return
