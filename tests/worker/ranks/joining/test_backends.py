"""The backends of mlx.distributed: which one a group has, and what MLX then reads."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from protocol.ranks import AskedBackend, Backend, RankGroup
from tests.waiting import HANG_S
from worker.ranks.joining.backends import (
    VARIABLES,
    HeldPorts,
    NoBackend,
    choose_backend,
    list_backends,
)
from worker.ranks.joining.hello import Welcome

ALL: tuple[Backend, ...] = ("ring", "jaccl", "jaccl-ring", "nccl")
DEVICES: Any = [[None, "en1"], ["en1", None]]


def make_group(
    backend: AskedBackend = "ring", *, rdma: Any = (), hosts: tuple[str, str] = ("a", "b")
) -> RankGroup:
    """A group of two ranks."""
    return RankGroup(
        rank=1,
        secret=b"s",
        hosts=list(hosts),
        addresses=[["10.0.0.1"], ["10.0.0.2"]],
        plan_address=("10.0.0.1", 1),
        backend=backend,
        rdma=list(rdma),
    )


def choose(group: RankGroup, first: Collection[Backend], second: Collection[Backend]) -> Backend:
    """The backend of two ranks that have these."""
    return choose_backend(group, {0: first, 1: second})


def test_the_ring_is_there() -> None:
    assert "ring" in list_backends()
    assert ("nccl" in list_backends()) == mx.distributed.is_available("nccl")
    assert ("jaccl-ring" in list_backends()) == mx.distributed.is_available("jaccl")


def test_a_backend_that_a_rank_lacks_is_refused_by_its_host() -> None:
    with pytest.raises(NoBackend, match="MLX on rank 1 on host b has no backend nccl"):
        choose(make_group("nccl"), ALL, ["ring"])


def test_any_is_the_fastest_that_all_have() -> None:
    group = make_group("any", rdma=DEVICES)
    assert choose(group, ALL, ALL) == "jaccl"
    assert choose(make_group("any"), ALL, ALL) == "nccl"
    assert choose(group, ALL, ["ring"]) == "ring"
    with pytest.raises(NoBackend, match=r"jaccl; .* nccl; .* ring"):
        choose(group, [], [])


def variables(group: RankGroup, backend: Backend, folder: Path) -> dict[str, str]:
    """What MLX reads for a backend."""
    welcome = Welcome(backend, [["10.0.0.1:5"], ["10.0.0.2:6"]], "10.0.0.1:5", 30.0)
    return VARIABLES[backend](group, welcome, folder)


def test_the_ring_reads_the_addresses(tmp_path: Path) -> None:
    [(name, path)] = variables(make_group(), "ring", tmp_path).items()
    assert name == "MLX_HOSTFILE"
    assert json.loads(Path(path).read_text()) == [["10.0.0.1:5"], ["10.0.0.2:6"]]


def test_jaccl_reads_the_devices_and_the_coordinator(tmp_path: Path) -> None:
    found = variables(make_group(rdma=DEVICES), "jaccl", tmp_path)
    assert json.loads(Path(found.pop("MLX_IBV_DEVICES")).read_text()) == DEVICES
    assert found == {"MLX_JACCL_COORDINATOR": "10.0.0.1:5"}
    found = variables(make_group(rdma=DEVICES), "jaccl-ring", tmp_path)
    assert found["MLX_JACCL_RING"] == "1"


def test_nccl_reads_the_coordinator_and_takes_a_gpu_for_each_rank_of_a_host(tmp_path: Path) -> None:
    expected = {"NCCL_HOST_IP": "10.0.0.1", "NCCL_PORT": "5", "MLX_WORLD_SIZE": "2"}
    assert variables(make_group(), "nccl", tmp_path) == expected
    shared = make_group(hosts=("a", "a"))
    assert variables(shared, "nccl", tmp_path) == {**expected, "CUDA_VISIBLE_DEVICES": "1"}


def test_nobody_else_is_given_a_port_of_the_ring() -> None:
    with closing(HeldPorts(["127.0.0.1", "127.0.0.1"])) as ports:
        assert len(set(ports.addresses)) == 2
        host, _, port = ports.addresses[0].rpartition(":")
        with socket.socket() as ring:
            # As MLX's ring binds it.
            ring.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ring.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            ring.bind((host, int(port)))
            ring.listen()
            with socket.create_connection((host, int(port)), HANG_S) as peer:
                assert peer.getpeername() == (host, int(port))


def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(NoBackend, match=r"192\.168\.254\.253 is not an address of this host"):
        HeldPorts(["127.0.0.1", "192.168.254.253"])
