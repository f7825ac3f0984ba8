"""The clients of connections, and which of them has more than half."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Peer(NamedTuple):
    """The addresses of a connection: the client's host and port, and the service's."""

    host: str
    port: int
    server_host: str
    server_port: int

    @property
    def ports(self) -> tuple[int, int]:
        """The client's port and the service's."""
        return self.port, self.server_port


class ConnectionClients(Protocol):
    """Names the clients of connections."""

    def name_now(self, peer: Peer) -> str:
        """The client as far as it is known without a look-up."""

    async def find_name(self, peer: Peer) -> str:
        """The client, after a look-up where one is needed."""


def find_client_above_half(names: Iterable[str], places: int) -> str | None:
    """The client that has more than half of the places, and more than one."""
    held = Counter(names)
    share = max(places // 2, 1)
    return next((name for name, count in held.items() if count > share), None)
