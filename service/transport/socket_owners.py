"""The TCP connections of processes, by their ports.

On Linux the kernel is asked for all connections at once, by sock_diag(7), and each process for its
descriptors alone. With 900 connections that takes 12 ms, the text of `/proc/net/tcp` 22 ms, and
psutil (7.2), which reads the text for each process, more. A client that opens hundreds of
connections has the service look often. Use psutil alone when it is as quick.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

# A connection's port, and that at its other end.
Ports = tuple[int, int]
# Of each process that is looked at in turn.
PortsByProcess = Iterator[tuple[int, list[Ports]]]

PROCESSES = Path("/proc")
# Of linux/netlink.h, linux/sock_diag.h and linux/tcp_states.h.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
# A socket that listens or is closed has no other end, and one in TIME_WAIT no process.
STATES = 0xFFF & ~(1 << 10 | 1 << 7 | 1 << 6)
# struct nlmsghdr: length, type, flags, sequence and port.
HEADER = struct.Struct("=IHHII")
# struct inet_diag_req_v2, but for the socket, which may be any: family, protocol, states.
REQUEST = struct.Struct("=BBxxI48x")
# Behind the header, struct inet_diag_msg: the ports are in the order of the network.
PORTS, PORTS_AT = struct.Struct("!HH"), HEADER.size + 4
INODE, INODE_AT = struct.Struct("=I"), HEADER.size + 68
RECEIVE_BYTES = 1 << 20
TIMEOUT_S = 1.0


def list_ports(pids: Sequence[int]) -> PortsByProcess:
    """The TCP connections of these processes; none of those that are not shown to this user."""
    if not pids:
        return
    try:
        connections = read_connections()
    except OSError:
        # Not Linux, or not shown here: psutil may read one process after the other.
        yield from ((pid, list_ports_of(pid)) for pid in pids)
        return
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
    """All TCP connections of this network, by what a file descriptor of a process links to.

    Raises:
        OSError: the system has no sock_diag(7), or does not allow it.
    """
    if sys.platform != "linux":
        raise OSError("only Linux has sock_diag")
    found: dict[str, Ports] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(TIMEOUT_S)
        for family in (socket.AF_INET, socket.AF_INET6):
            kernel.send(request_connections(family))
            while not read_messages(kernel.recv(RECEIVE_BYTES), found):
                pass
    return found


def request_connections(family: int) -> bytes:
    """The message that asks for all connections of an address family."""
    body = REQUEST.pack(family, socket.IPPROTO_TCP, STATES)
    length = HEADER.size + len(body)
    return HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 0, 0) + body


def read_messages(data: bytes, found: dict[str, Ports]) -> bool:
    """Add the connections of some messages to `found`; whether they are the last ones.

    Raises:
        OSError: the kernel refuses.
    """
    at = 0
    while at < len(data):
        length, kind, *_ = HEADER.unpack_from(data, at)
        if kind == NLMSG_DONE:
            return True
        if kind == NLMSG_ERROR:
            raise OSError("the kernel lists no connections")
        (inode,) = INODE.unpack_from(data, at + INODE_AT)
        found[f"socket:[{inode}]"] = PORTS.unpack_from(data, at + PORTS_AT)
        # Messages are aligned to four bytes.
        at += (length + 3) & ~3
    return False


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
