"""What the ranks of one worker need to find each other.

Rank 0 gets it with `Configure`, every other rank as the first line of its standard input:
neither arguments nor the environment of a process are secret.
"""

from __future__ import annotations

from typing import Literal, get_args

from protocol.structs import Data

# Those of mlx.distributed; the ring of JACCL is one of its own here.
Backend = Literal["ring", "jaccl", "jaccl-ring", "nccl", "mpi"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
# With `any` it is the first one that all ranks have.
AskedBackend = Backend | Literal["any"]
ANY: Literal["any"] = "any"
Split = Literal["tensor", "pipeline"]
"""How a model is split over ranks: each has a part of each layer, or some of the layers."""
SplitSetting = Literal["auto", "tensor", "pipeline"]
"""`auto` is `tensor` where a model can be split so, else `pipeline`."""


class RankGroup(Data, frozen=True):
    """The processes that compute one worker's models together, `rank` being the receiver's.

    `secret` authenticates the plans. `hosts` and `addresses` have one element for each rank: the
    host's name in messages, and the numeric addresses at which the backend may listen there.
    `rdma` has the devices of each rank to each other one, if there are any. Rank 0 accepts the
    others at `plan_address`, on the socket whose descriptor is `listener`; the others connect to
    it. With the backend `any` rank 0 chooses one.
    """

    rank: int
    secret: bytes
    hosts: list[str]
    addresses: list[list[str]]
    plan_address: tuple[str, int]
    listener: int = -1
    backend: AskedBackend = "ring"
    rdma: list[list[str | list[str] | None]] = []

    @property
    def size(self) -> int:
        """The number of ranks."""
        return len(self.hosts)

    @property
    def shares(self) -> int:
        """How many ranks this rank's host has, which share its memory."""
        return self.hosts.count(self.hosts[self.rank])

    @property
    def has_other_hosts(self) -> bool:
        """Whether the ranks are on several hosts."""
        return len(set(self.hosts)) > 1

    def name_of(self, rank: int) -> str:
        """What a message calls another rank: by its host, where there are several hosts."""
        return f"rank {rank} on host {self.hosts[rank]}" if self.has_other_hosts else f"rank {rank}"

    def with_host(self, rank: int, reason: str) -> str:
        """What has happened to a rank, with its host, where there are several hosts."""
        return f"host {self.hosts[rank]}: {reason}" if self.has_other_hosts else reason
