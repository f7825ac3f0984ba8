"""The client of a request: whose shares of the service it uses.

A client is an API key; without one, a network address; on the loopback interface, where all have
one address, a process, or the connection if the process is not known. A reverse proxy on this
machine is one process, so behind one only keys tell clients apart.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from starlette.types import Scope

from service.security.addresses import is_loopback
from service.security.peer_processes import PeerProcesses
from service.transport.clients import Peer

# One machine has as many IPv6 addresses as it likes within a network of this size.
IPV6_PREFIX_BITS = 64


class PeerNames:
    """Names the clients of connections: the transport's `ConnectionClients`.

    `rename` is called with the former and the new name of a connection whose process is found. Its
    requests may have begun under the former one where the look-up was slow.
    """

    def __init__(
        self,
        processes: PeerProcesses,
        rename: Callable[[str, str], None] = lambda former, name: None,
    ) -> None:
        self._processes = processes
        processes.report = lambda ports, pid: rename(name_of(ports[0]), name_of(ports[0], pid))

    def name_now(self, peer: Peer) -> str:
        """The client as far as it is known without a look-up of its process."""
        if not is_loopback(peer.host):
            return f"address {network_of(peer.host)}"
        return name_of(peer.port, self._processes.cached(peer))

    async def find_name(self, peer: Peer) -> str:
        """The client; the process of a loopback connection is looked up."""
        if is_loopback(peer.host):
            await self._processes.find(peer)
        return self.name_now(peer)


class ClientNames:
    """Names the clients of requests: by key, else by connection."""

    def __init__(self, peers: PeerNames) -> None:
        self._peers = peers

    def name_now(self, scope: Scope) -> str:
        """The client as far as it is known without a look-up of its process."""
        return key_client(scope) or self._peers.name_now(peer_of(scope))

    async def find_name(self, scope: Scope) -> str:
        """The client; the process of a loopback connection is looked up."""
        return key_client(scope) or await self._peers.find_name(peer_of(scope))


def name_of(port: int, pid: int | None = None) -> str:
    """The client of a loopback connection: its process, or the connection if that is not known."""
    return f"connection {port}" if pid is None else f"process {pid}"


def key_client(scope: Scope) -> str | None:
    """The client by the key of the request; None without a key."""
    key = scope.get("state", {}).get("key_name")
    return None if key is None else f"key {key}"


def peer_of(scope: Scope) -> Peer:
    """The addresses of the request's connection; empty and 0 if unknown."""
    host, port = scope.get("client") or ("", 0)
    server_host, server_port = scope.get("server") or ("", 0)
    return Peer(host, port, server_host, server_port or 0)


def network_of(host: str) -> str:
    """The address; of an IPv6 address the network."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_PREFIX_BITS), strict=False))
