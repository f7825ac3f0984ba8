"""Where ranks run, and what a backend needs of the file of hosts."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.ranks import AskedBackend
from service.ranks.hosts_file import HostEntry, HostsFile, HostsFileError
from service.ranks.layout import LayoutRefused, RankLayout, layout_of, local_layout
from service.ranks.networks import Network

# This machine, and one that the tests never connect to.
HERE = HostEntry("mac1", ("127.0.0.1",))
THERE = HostEntry("mac2", ("127.0.0.2",))
DEVICES: Any = ((None, "en1", "en2"), ("en1", None, "en3"), ("en2", "en3", None))


def lay_out(
    *hosts: HostEntry,
    backend: AskedBackend | None = None,
    network: Network = "private",
    **fields: Any,
) -> RankLayout:
    """The layout of a file with these hosts."""
    return layout_of(HostsFile("hosts.json", hosts, **fields), backend=backend, network=network)


def refusal(*hosts: HostEntry, **settings: Any) -> str:
    """Why these hosts are refused."""
    with pytest.raises(HostsFileError) as caught:
        lay_out(*hosts, **settings)
    return str(caught.value).removeprefix("hosts.json: ")


def test_the_first_host_is_this_machine_and_ssh_starts_the_others() -> None:
    here_too = HostEntry("127.0.0.1", ("127.0.0.1",))
    layout = lay_out(HERE, THERE, here_too)
    assert [place.ssh for place in layout.places] == [None, "mac2", None]
    assert layout.names == ["mac1", "mac2", "127.0.0.1"]
    assert layout.backend == "ring"


def test_a_first_host_that_is_another_machine_is_refused() -> None:
    reason = refusal(HostEntry("mac3", ("192.168.254.253",)), THERE)
    assert reason.startswith("hosts[0].ips[0]: 192.168.254.253 is not an address of this machine")


def test_a_loopback_address_is_refused_where_others_cannot_reach_it() -> None:
    reason = refusal(HERE, HostEntry("mac2", ("10.0.0.2",)))
    assert reason == "hosts[0].ips[0]: 127.0.0.1 cannot be reached from hosts[1], mac2"


def test_an_address_that_is_not_private_is_refused_by_its_field() -> None:
    reason = refusal(HERE, HostEntry("mac2", ("8.8.8.8",)))
    assert reason.startswith("hosts[1].ips[0]: 8.8.8.8 is public")


@pytest.mark.parametrize(
    ("hosts", "backend", "words"),
    [
        ((HostEntry("mac1", ()), THERE), None, "hosts[0].ips: has no address: rank 0"),
        ((HERE, HostEntry("mac2", ())), None, "hosts[1].ips: has no address: the ring"),
        (
            (HERE, HostEntry("mac2", ("127.0.0.1", "127.0.0.2"))),
            None,
            "hosts[1].ips: has 2 addresses where hosts[0] has 1",
        ),
        ((HostEntry("mac1", ("::1",)),), None, "hosts[0].ips[0]: ::1 is IPv6"),
        ((HERE, THERE), "jaccl", "hosts[0].rdma: is missing"),
        (
            (HostEntry("a", ("127.0.0.1",), (None, None)), THERE),
            "jaccl-ring",
            "hosts[0].rdma[1]: has no device to host mac2",
        ),
        ((HERE, THERE), "mpi", "backend mpi: its processes are started by mpirun"),
    ],
)
def test_what_a_backend_lacks_is_named(hosts: Any, backend: AskedBackend, words: str) -> None:
    assert refusal(*hosts, backend=backend).startswith(words)


def test_the_backend_is_the_files_unless_a_setting_says_another() -> None:
    hosts = [HostEntry("mac1", ("127.0.0.1",), devices) for devices in DEVICES]
    assert lay_out(*hosts, backend=None).backend == "ring"
    file = HostsFile("hosts.json", tuple(hosts), backend="jaccl")
    assert layout_of(file, backend=None, network="private").backend == "jaccl"
    assert layout_of(file, backend="any", network="private").backend == "any"
    with pytest.raises(HostsFileError, match="backend 'smoke' is not one of ring, jaccl"):
        layout_of(HostsFile("h", (HERE,), backend="smoke"), backend=None, network="private")


def test_a_ring_of_jaccl_needs_devices_to_neighbours_alone() -> None:
    hosts = [
        HostEntry("mac1", ("127.0.0.1",), (None, "a", None, "b")),
        HostEntry("mac2", (), ("a", None, "c", None)),
        HostEntry("mac3", (), (None, "c", None, "d")),
        HostEntry("mac4", (), ("b", None, "d", None)),
    ]
    assert lay_out(*hosts, backend="jaccl-ring").size == 4
    assert refusal(*hosts, backend="jaccl") == "hosts[0].rdma[2]: has no device to host mac3"


def test_backends_between_hosts_are_refused_on_one_machine() -> None:
    assert local_layout(2, "any").size == 2
    for backend in ("jaccl", "jaccl-ring", "mpi"):
        with pytest.raises(LayoutRefused, match="ranks_backend"):
            local_layout(2, backend)
