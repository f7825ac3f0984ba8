"""The client of a request: whose shares of the service it uses.

A client is an API key; without one, a network address; on the loopback interface, where all have
one address, a process, or the connection if the process is not known. A reverse proxy on this
machine is one process, so behind one only keys tell clients apart.
"""

from __future__ import annotations

import ipaddress

from starlette.types import Scope

from service.security.addresses import is_loopback
from service.security.peer_processes import PeerProcesses

# One machine has as many IPv6 addresses as it likes within a network of this size.
IPV6_PREFIX_BITS = 64


class ClientNames:
    """Names the clients of requests."""

    def __init__(self, processes: PeerProcesses) -> None:
        self._processes = processes

    def name_now(self, scope: Scope) -> str:
        """The client as far as it is known without a look-up of its process."""
        if (key := scope.get("state", {}).get("key_name")) is not None:
            return f"key {key}"
        return self.name_peer(*peer_of(scope))

    async def find_name(self, scope: Scope) -> str:
        """The client; the process of a loopback connection is looked up."""
        host, port, server_port = peer_of(scope)
        if "key_name" not in scope.get("state", {}) and is_loopback(host):
            await self._processes.find(port, server_port)
        return self.name_now(scope)

    def name_peer(self, host: str, port: int, server_port: int) -> str:
        """The client of a connection, without a look-up."""
        if not is_loopback(host):
            return f"address {network_of(host)}"
        pid = self._processes.cached(port, server_port)
        return f"connection {port}" if pid is None else f"process {pid}"


def peer_of(scope: Scope) -> tuple[str, int, int]:
    """Address and port of the client, and the service's port; empty and 0 if unknown."""
    host, port = scope.get("client") or ("", 0)
    _, server_port = scope.get("server") or ("", 0)
    return host, port, server_port or 0


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
