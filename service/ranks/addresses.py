"""The addresses and the secret of one group of ranks on this machine.

MLX's ring binds its ports by itself, so free ones are found before: a socket holds each, which
does not listen. The ring's own sockets share the port with it (SO_REUSEADDR and SO_REUSEPORT).
"""

from __future__ import annotations

import secrets
import socket

from protocol.ranks import RankGroup

LOOPBACK = "127.0.0.1"
SECRET_BYTES = 32


class RankAddresses:
    """Made for each start of the ranks. Rank 0 inherits the socket `listener`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._listener = socket.create_server((LOOPBACK, 0), backlog=size)
        self.listener = self._listener.fileno()
        self._plan_address: tuple[str, int] = self._listener.getsockname()
        self._holders = [hold_port() for _ in range(size)]
        self._secret = secrets.token_bytes(SECRET_BYTES)

    def group_for(self, rank: int) -> RankGroup:
        """What this rank needs to know."""
        return RankGroup(
            rank=rank,
            secret=self._secret,
            ring=[[f"{LOOPBACK}:{holder.getsockname()[1]}"] for holder in self._holders],
            plan_address=self._plan_address,
            listener=self.listener if rank == 0 else -1,
        )

    def close_listener(self) -> None:
        """Close this process's copy of it, once rank 0 has its own."""
        self._listener.close()

    def close(self) -> None:
        """Free the ports."""
        self._listener.close()
        for holder in self._holders:
            holder.close()


def hold_port() -> socket.socket:
    """A socket that keeps a free port from being given to another process."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((LOOPBACK, 0))
    return holder
