"""What the ranks of one worker need to find each other.

Rank 0 gets it with `Configure`, every other rank as the first line of its standard input:
neither arguments nor the environment of a process are secret.
"""

from __future__ import annotations

from protocol.structs import Data


class RankGroup(Data, frozen=True):
    """The processes that compute one worker's models together, `rank` being the receiver's.

    `secret` authenticates the plans. `ring` has one list for each rank: the addresses, as
    host:port, at which MLX's ring backend of that rank listens. Rank 0 accepts the others at
    `plan_address`, on the socket whose descriptor is `listener`; the others connect to it.
    """

    rank: int
    secret: bytes
    ring: list[list[str]]
    plan_address: tuple[str, int]
    listener: int = -1

    @property
    def size(self) -> int:
        """The number of ranks."""
        return len(self.ring)
