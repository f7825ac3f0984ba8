"""The address of the plans, and the secret, of one start of the ranks.

Each rank finds free ports for MLX's backend by itself, and rank 0 sends them to all.
"""

from __future__ import annotations

import secrets
import socket

from protocol.ranks import RankGroup
from service.ranks.layout import RankLayout

SECRET_BYTES = 32


class RankAddresses:
    """Made for each start of the ranks. Rank 0 inherits the socket `listener`.

    Raises:
        OSError: the first address of rank 0 cannot be listened on.
    """

    def __init__(self, layout: RankLayout) -> None:
        self.layout = layout
        address = layout.places[0].addresses[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family, backlog=layout.size)
        self.listener = self._listener.fileno()
        self._plan_address: tuple[str, int] = (address, self._listener.getsockname()[1])
        self._secret = secrets.token_bytes(SECRET_BYTES)

    def group_for(self, rank: int) -> RankGroup:
        """What this rank needs to know."""
        places = self.layout.places
        return RankGroup(
            rank=rank,
            secret=self._secret,
            hosts=self.layout.names,
            addresses=[list(place.addresses) for place in places],
            plan_address=self._plan_address,
            listener=self.listener if rank == 0 else -1,
            backend=self.layout.backend,
            rdma=[[*map(to_json, place.rdma)] for place in places],
        )

    def close(self) -> None:
        """Close this process's copy of the listener, once rank 0 has its own."""
        self._listener.close()


def to_json(device: str | tuple[str, ...] | None) -> str | list[str] | None:
    """RDMA devices as the format of the hosts file has them."""
    return list(device) if isinstance(device, tuple) else device
