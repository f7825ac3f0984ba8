"""Where the ranks run: all on this machine, or each on a host of a file."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from protocol.ranks import ANY, BACKENDS, AskedBackend
from service.errors import excerpt
from service.ranks.hosts_file import Devices, HostEntry, HostsFile, HostsFileError
from service.ranks.networks import AddressRefused, Network, Resolve, choose_address, resolve_name

LOOPBACK, LOCAL_NAME = "127.0.0.1", "localhost"
# What mlx.launch starts without ssh, and its other names.
LOCAL_NAMES = (LOOPBACK, LOCAL_NAME)
RDMA_BACKENDS = ("jaccl", "jaccl-ring")
NO_MPI = "mpi: its processes are started by mpirun, which mlxd does not use"


class LayoutRefused(ValueError):
    """Ranks that cannot run so; the message names the setting or the field, and says why."""


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Where one rank runs: `name` for messages; `ssh` is None on this machine."""

    name: str
    addresses: tuple[str, ...] = (LOOPBACK,)
    ssh: str | None = None
    rdma: Devices = ()


@dataclass(frozen=True, slots=True)
class RankLayout:
    """All ranks, by number, and the backend of MLX between them.

    `variables` are set for all of them. `python` and `folder` are those of other hosts; empty,
    they are this process's own.
    """

    places: tuple[RankPlace, ...]
    backend: AskedBackend = "ring"
    variables: tuple[tuple[str, str], ...] = ()
    python: str = ""
    folder: str = ""

    @property
    def size(self) -> int:
        """The number of ranks."""
        return len(self.places)

    @property
    def names(self) -> list[str]:
        """The host of each rank."""
        return [place.name for place in self.places]


ONE_PROCESS = RankLayout((RankPlace(LOCAL_NAME),))


def local_layout(count: int, backend: AskedBackend = "ring") -> RankLayout:
    """So many ranks on this machine.

    Raises:
        LayoutRefused: the backend is not for one machine.
    """
    if count > 1 and backend in (*RDMA_BACKENDS, "mpi"):
        reason = NO_MPI if backend == "mpi" else f"{backend} is between hosts: it needs --hosts"
        raise LayoutRefused(f"ranks_backend: {reason}")
    return RankLayout((RankPlace(LOCAL_NAME),) * count, backend)


def layout_of(
    file: HostsFile,
    *,
    backend: AskedBackend | None,
    network: Network,
    python: str = "",
    folder: str = "",
    resolve: Resolve = resolve_name,
) -> RankLayout:
    """The ranks that a file of hosts describes; a `backend` of None is the file's, else the ring.

    Raises:
        HostsFileError: an entry cannot be used by the backend, or ranks may not use its addresses.
    """
    chosen = backend or read_backend(file)
    if chosen == "mpi":
        raise HostsFileError(f"{file.path}: backend {NO_MPI}")
    check_fields(file, chosen)
    places = tuple(
        RankPlace(
            name=entry.ssh,
            addresses=tuple(
                choose_field(name, f"{file.path}: hosts[{index}].ips[{number}]", network, resolve)
                for number, name in enumerate(entry.ips)
            ),
            ssh=None if index == 0 or entry.ssh in LOCAL_NAMES else entry.ssh,
            rdma=entry.rdma,
        )
        for index, entry in enumerate(file.hosts)
    )
    if chosen in ("ring", ANY):
        refuse_ipv6(places, file.path)
    refuse_foreign_first(places[0], file.path)
    refuse_loopback_between_hosts(places, file.path)
    return RankLayout(places, chosen, file.variables, python, folder)


def read_backend(file: HostsFile) -> AskedBackend:
    """The backend that a file of hosts names, else the ring.

    Raises:
        HostsFileError: mlx.distributed has no such backend.
    """
    try:
        backend: AskedBackend = msgspec.convert(file.backend or "ring", AskedBackend)
    except msgspec.ValidationError:
        known, shown = ", ".join((*BACKENDS, ANY)), excerpt(repr(file.backend), 100)
        raise HostsFileError(f"{file.path}: backend {shown} is not one of {known}") from None
    return backend


def check_fields(file: HostsFile, backend: str) -> None:
    """Check that each host has what the backend needs.

    Raises:
        HostsFileError: a field is missing, or does not fit the others.
    """
    first, uses_ring = file.hosts[0], backend in ("ring", ANY)
    for index, entry in enumerate(file.hosts):
        place = f"{file.path}: hosts[{index}]"
        if not entry.ips and (uses_ring or index == 0):
            why = "rank 0 is reached at its first one" if index == 0 else "the ring listens there"
            raise HostsFileError(f"{place}.ips: has no address: {why}")
        if uses_ring and len(entry.ips) != len(first.ips):
            raise HostsFileError(
                f"{place}.ips: has {len(entry.ips)} addresses where hosts[0] has "
                f"{len(first.ips)}: the ring needs as many of each host"
            )
        if backend in RDMA_BACKENDS:
            check_devices(entry, file.hosts, index, f"{place}.rdma", backend)


def check_devices(
    entry: HostEntry, hosts: Sequence[HostEntry], index: int, place: str, backend: str
) -> None:
    """Check that a host has an RDMA device to each one that the backend connects it to.

    Raises:
        HostsFileError: one is missing.
    """
    count = len(hosts)
    if not entry.rdma:
        raise HostsFileError(f"{place}: is missing: {backend} needs a device to each other host")
    neighbours = ((index - 1) % count, (index + 1) % count)
    for other in neighbours if backend == "jaccl-ring" else range(count):
        if other != index and entry.rdma[other] is None:
            raise HostsFileError(f"{place}[{other}]: has no device to host {hosts[other].ssh}")


def choose_field(name: str, place: str, network: Network, resolve: Resolve) -> str:
    """The numeric address of a field.

    Raises:
        HostsFileError: ranks may not use it.
    """
    try:
        return choose_address(name, network, resolve)
    except AddressRefused as error:
        raise HostsFileError(f"{place}: {error}") from None


def refuse_ipv6(places: Sequence[RankPlace], path: str) -> None:
    """Refuse addresses that MLX's ring (0.32.4) cannot use: its sockets are of IPv4.

    Raises:
        HostsFileError: there is one.
    """
    for index, place in enumerate(places):
        for number, address in enumerate(place.addresses):
            if ":" in address:
                field = f"{path}: hosts[{index}].ips[{number}]"
                raise HostsFileError(f"{field}: {address} is IPv6; MLX's ring has IPv4 alone")


def refuse_foreign_first(first: RankPlace, path: str) -> None:
    """Refuse a first host that is not this machine, where rank 0 runs.

    Raises:
        HostsFileError: it is another one.
    """
    address = first.addresses[0]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((address, 0))
    except OSError as error:
        raise HostsFileError(
            f"{path}: hosts[0].ips[0]: {address} is not an address of this machine "
            f"({error.strerror}); the first host is rank 0, which runs here"
        ) from None


def refuse_loopback_between_hosts(places: Sequence[RankPlace], path: str) -> None:
    """Refuse a first address that no other host can reach.

    Raises:
        HostsFileError: it is a loopback one, and another host has an address that is none.
    """
    if not is_loopback(places[0].addresses[0]):
        return
    for index, place in enumerate(places):
        if place.addresses and not is_loopback(place.addresses[0]):
            raise HostsFileError(
                f"{path}: hosts[0].ips[0]: {places[0].addresses[0]} cannot be reached "
                f"from hosts[{index}], {place.name}"
            )


def is_loopback(address: str) -> bool:
    """Whether a numeric address is one of the machine itself."""
    return address == "::1" or address.startswith("127.")
