"""Ranks on two hosts, of which one is reached by the real ssh: sshd on the loopback address."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.daemon import Daemon, running
from tests.e2e.ranked import answer_all, answer_during, answer_while, make_requests
from tests.e2e.ssh_hosts import FIRST, SECOND, SshHost, sshd, write_hosts
from tests.waiting import HANG_S, wait_for

pytestmark = pytest.mark.long

FLAGS = ("--stall-s", "20", "--speculation", "on")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with sshd(tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture(scope="module")
def hosted(host: SshHost, llama_path: Path) -> Iterator[Daemon]:
    """A service of two hosts; one test kills it."""
    flags = ["--hosts", str(write_hosts(host.folder, FIRST, SECOND)), *FLAGS]
    with running(llama_path, flags=flags, environ=host.environ) as daemon:
        yield daemon


@pytest.mark.anyio
async def test_32_mixed_requests_get_the_answers_of_one_process(
    hosted: Daemon, daemon: Daemon
) -> None:
    bodies = make_requests(32, tokens=24)
    expected = await answer_all(daemon, bodies)
    assert [await answer_all(hosted, bodies) for _ in range(2)] == [expected] * 2


@pytest.mark.anyio
async def test_an_ended_ssh_is_a_pause(hosted: Daemon, host: SshHost, daemon: Daemon) -> None:
    bodies = make_requests(7, tokens=24)
    expected = await answer_all(daemon, bodies)
    hosted.wait_until("status", be="healthy")
    before = host.ranks()
    assert await answer_while(hosted, bodies, 1, signal.SIGTERM) == expected
    report = hosted.wait_until("status", be="healthy")
    assert f"rank 1 on host {SECOND} has ended" in report["worker"]["last_exit"]["reason"]
    assert psutil.wait_procs(before, timeout=HANG_S)[1] == []


@pytest.mark.anyio
async def test_a_killed_rank_there_is_a_pause(
    hosted: Daemon, host: SshHost, daemon: Daemon
) -> None:
    bodies = make_requests(7, tokens=24)
    expected = await answer_all(daemon, bodies)
    report = hosted.wait_until("status", be="healthy")
    [rank] = host.ranks()
    assert await answer_during(hosted, bodies, rank.kill) == expected
    hosted.wait_until("worker.restarts", be=report["worker"]["restarts"] + 1)


def test_its_arguments_have_no_path_and_no_secret(hosted: Daemon, host: SshHost) -> None:
    hosted.wait_until("status", be="healthy")
    [rank] = host.ranks()
    assert rank.cmdline()[1:] == ["-P", "-m", "worker.ranks"]


def test_the_end_of_the_service_is_the_end_there(hosted: Daemon, host: SshHost) -> None:
    hosted.wait_until("status", be="healthy")
    ranks = host.ranks()
    hosted.process.kill()
    assert len(ranks) == 1
    assert psutil.wait_procs(ranks, timeout=HANG_S)[1] == []
    wait_for(lambda: hosted.process.poll() is not None)


def test_a_key_that_is_refused_is_named_with_its_host(tmp_path: Path) -> None:
    with sshd(tmp_path) as host:
        (tmp_path / "authorized_keys").write_text("")
        flags = ["--hosts", str(write_hosts(tmp_path, FIRST, SECOND))]
        with running("mlxd-demo", flags=flags, environ=host.environ, wait=False) as daemon:
            assert daemon.wait() != 0
    assert f"rank 1 on host {SECOND} has ended with exit code 255" in daemon.output
    assert "Permission denied" in daemon.output


def test_a_host_whose_key_is_unknown_is_refused(tmp_path: Path) -> None:
    with sshd(tmp_path) as host:
        (tmp_path / "known_hosts").write_text("")
        flags = ["--hosts", str(write_hosts(tmp_path, FIRST, SECOND))]
        with running("mlxd-demo", flags=flags, environ=host.environ, wait=False) as daemon:
            assert daemon.wait() != 0
    assert f"rank 1 on host {SECOND} has ended with exit code 255" in daemon.output
    assert "Host key verification failed" in daemon.output
    assert (tmp_path / "known_hosts").read_text() == ""
