"""The backends of mlx.distributed: which of them there are, and a group by one of them.

MLX takes what a backend needs from variables alone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import mlx.core as mx

from protocol.ranks import ANY, BACKENDS, Backend, RankGroup
from worker.ranks.joining.hello import Welcome

# With `any`, the fastest first.
PREFERRED: tuple[Backend, ...] = ("jaccl", "nccl", "ring")


class NoBackend(RuntimeError):
    """A backend that the ranks cannot use; the message says why."""


def list_backends() -> list[Backend]:
    """The backends that MLX has here."""
    return [name for name in BACKENDS if is_available(name)]


def is_available(backend: Backend) -> bool:
    """Whether MLX has a backend here."""
    # For MLX the ring of JACCL is JACCL with one more variable.
    return mx.distributed.is_available("jaccl" if backend == "jaccl-ring" else backend)


def choose_backend(group: RankGroup, backends: Mapping[int, Collection[Backend]]) -> Backend:
    """The backend of a group, whose ranks have these.

    Raises:
        NoBackend: a rank lacks it.
    """
    wanted = list(PREFERRED) if group.backend == ANY else [group.backend]
    reasons = []
    for backend in wanted:
        if (reason := why_unusable(backend, group, backends)) is None:
            return backend
        reasons.append(reason)
    raise NoBackend("; ".join(reasons))


def why_unusable(
    backend: Backend, group: RankGroup, backends: Mapping[int, Collection[Backend]]
) -> str | None:
    """Why a group cannot use a backend; None if it can."""
    lacking = [group.name_of(rank) for rank, found in backends.items() if backend not in found]
    if lacking:
        return f"MLX on {', '.join(lacking)} has no backend {backend}"
    if backend == "jaccl" and not names_all_devices(group):
        return "jaccl needs an RDMA device from each host to each other one"
    if backend == "ring" and not all(group.addresses):
        return "the ring needs an address of each rank"
    return None


def names_all_devices(group: RankGroup) -> bool:
    """Whether each rank has an RDMA device to each other one."""
    return len(group.rdma) == group.size and all(
        len(devices) == group.size
        and all(device for other, device in enumerate(devices) if other != rank)
        for rank, devices in enumerate(group.rdma)
    )


class HeldPorts:
    """Free ports of this rank for its backend, until the backend has its own sockets there.

    MLX binds its ports by itself: a socket holds each before, which does not listen. MLX's
    sockets share the port with it (SO_REUSEADDR and SO_REUSEPORT).

    Raises:
        NoBackend: one of the addresses is not of this machine.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._holders: list[socket.socket] = []
        self.addresses: list[str] = []
        try:
            for address in addresses:
                holder = hold_port(address)
                self._holders.append(holder)
                self.addresses.append(f"{address}:{holder.getsockname()[1]}")
        except OSError as error:
            self.close()
            raise NoBackend(f"{address} is not an address of this host: {error}") from None

    def close(self) -> None:
        """Free the ports."""
        for holder in self._holders:
            holder.close()


def hold_port(address: str) -> socket.socket:
    """A socket that keeps a free port from being given to another process."""
    holder = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((address, 0))
    except OSError:
        holder.close()
        raise
    return holder


def make_group(group: RankGroup, welcome: Welcome) -> mx.distributed.Group:
    """MLX's group, once all ranks call this.

    MLX (0.32.4) holds the interpreter's lock meanwhile, so that no thread of this process runs:
    no heartbeat is sent, and nothing is watched. So the system ends this process once rank 0
    would count it as lost (SIGALRM). It can go when MLX releases the lock.

    Raises:
        RuntimeError: another rank is not there.
    """
    os.environ["MLX_RANK"] = str(group.rank)
    with tempfile.TemporaryDirectory() as folder:
        for name, value in VARIABLES[welcome.backend](group, welcome, Path(folder)).items():
            os.environ[name] = value
        name = "jaccl" if welcome.backend == "jaccl-ring" else welcome.backend
        signal.setitimer(signal.ITIMER_REAL, welcome.silence_s)
        try:
            return mx.distributed.init(strict=True, backend=name)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def ring_variables(group: RankGroup, welcome: Welcome, folder: Path) -> dict[str, str]:
    """What the ring reads: a file with the addresses of each rank."""
    return {"MLX_HOSTFILE": write_json(folder / "ring.json", welcome.ring)}


def jaccl_variables(group: RankGroup, welcome: Welcome, folder: Path) -> dict[str, str]:
    """What JACCL reads: a file with the RDMA devices of each rank, and where the ranks meet."""
    ring = {"MLX_JACCL_RING": "1"} if welcome.backend == "jaccl-ring" else {}
    return {
        "MLX_IBV_DEVICES": write_json(folder / "devices.json", group.rdma),
        "MLX_JACCL_COORDINATOR": welcome.coordinator,
        **ring,
    }


def nccl_variables(group: RankGroup, welcome: Welcome, folder: Path) -> dict[str, str]:
    """What NCCL reads: where the ranks meet, how many they are, and this rank's GPU."""
    host, _, port = welcome.coordinator.rpartition(":")
    own = group.hosts[: group.rank].count(group.hosts[group.rank])
    return {
        "NCCL_HOST_IP": host,
        "NCCL_PORT": port,
        "MLX_WORLD_SIZE": str(group.size),
        **({"CUDA_VISIBLE_DEVICES": str(own)} if group.shares > 1 else {}),
    }


def mpi_variables(group: RankGroup, welcome: Welcome, folder: Path) -> dict[str, str]:
    """Nothing: `mpirun` sets what MPI reads."""
    return {}


VARIABLES: dict[Backend, Callable[[RankGroup, Welcome, Path], dict[str, str]]] = {
    "ring": ring_variables,
    "jaccl": jaccl_variables,
    "jaccl-ring": jaccl_variables,
    "nccl": nccl_variables,
    "mpi": mpi_variables,
}


def write_json(path: Path, content: object) -> str:
    """The path of a file with this content."""
    path.write_text(json.dumps(content), "utf-8")
    return str(path)
