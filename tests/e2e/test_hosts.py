"""Ranks on other hosts, with a program in place of ssh that runs them here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import psutil
import pytest

from tests.e2e.daemon import Daemon, running
from tests.e2e.ranked import answer_all, make_requests
from tests.e2e.ssh_hosts import (
    FAILING_SSH,
    FIRST,
    LOCAL_SSH,
    SECOND,
    ssh_in_front,
    write_hosts,
)
from tests.sources import ROOT
from tests.waiting import HANG_S

HUB_ID, REVISION = "tests/llama", "0123456789abcdef0123456789abcdef01234567"
FLAGS = ("--stall-s", "20", "--speculation", "on")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def hosted(folder: Path, llama_path: Path) -> Iterator[Daemon]:
    """A service of two hosts; the last test kills it."""
    environ = ssh_in_front(folder, LOCAL_SSH.format(record=folder / "record"))
    hosts = write_hosts(folder, FIRST, SECOND, envs=["MARK=of the file"])
    with running(llama_path, flags=["--hosts", str(hosts), *FLAGS], environ=environ) as daemon:
        yield daemon


def download(model: Path, home: Path) -> Path:
    """The folder of a model as it is when it was downloaded from the hub."""
    cache = home / ".cache" / "huggingface" / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(REVISION)
    return Path(shutil.copytree(model, cache / "snapshots" / REVISION))


def serve(*flags: str, environ: dict[str, str] | None = None) -> str:
    """What a service prints that cannot start."""
    completed = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--port", "0", *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**psutil.Process().environ(), **(environ or {})},
        timeout=HANG_S,
    )
    assert completed.returncode != 0
    return completed.stderr


@pytest.mark.long
@pytest.mark.anyio
async def test_two_hosts_give_the_answers_of_one_process(hosted: Daemon, daemon: Daemon) -> None:
    bodies = make_requests(9, tokens=6)
    expected = await answer_all(daemon, bodies)
    assert [await answer_all(hosted, bodies) for _ in range(2)] == [expected] * 2


def test_each_host_is_shown(hosted: Daemon) -> None:
    ranks = hosted.wait_until("status", be="healthy")["worker"]["ranks"]
    assert [(rank["rank"], rank["host"]) for rank in ranks] == [(0, FIRST), (1, SECOND)]


def test_ssh_is_given_no_path_and_no_secret(hosted: Daemon, folder: Path) -> None:
    hosted.wait_until("status", be="healthy")
    [*options, host, command] = (folder / "record").read_text().splitlines()
    assert options[:4] == ["-T", "-o", "BatchMode=yes", "--"]
    assert host == SECOND
    assert command == """exec /bin/sh -c 'IFS= read -r line && eval "$line"'"""


def test_the_variables_of_the_file_are_those_of_all_ranks(hosted: Daemon) -> None:
    ranks = hosted.wait_until("status", be="healthy")["worker"]["ranks"]
    environs = [psutil.Process(rank["pid"]).environ() for rank in ranks]
    assert [environ["MARK"] for environ in environs] == ["of the file"] * 2
    assert "MLX_HOSTFILE" not in environs[1]


@pytest.mark.long
def test_a_rank_on_another_host_is_started_again(hosted: Daemon) -> None:
    report = hosted.wait_until("status", be="healthy")
    psutil.Process(report["worker"]["ranks"][1]["pid"]).kill()
    hosted.wait_until("worker.restarts", be=report["worker"]["restarts"] + 1)
    report = hosted.wait_until("status", be="healthy")
    reason = report["worker"]["last_exit"]["reason"]
    assert f"rank 1 on host {SECOND} has ended with signal SIGKILL" in reason


def test_the_end_of_the_service_is_the_end_on_all_hosts(hosted: Daemon) -> None:
    report = hosted.wait_until("status", be="healthy")
    ranks = [psutil.Process(rank["pid"]) for rank in report["worker"]["ranks"]]
    hosted.process.kill()
    assert psutil.wait_procs(ranks, timeout=HANG_S)[1] == []


def test_a_host_that_cannot_be_reached_is_named_at_the_start(tmp_path: Path) -> None:
    words = f"ssh: connect to host {SECOND} port 22: No route to host"
    environ = ssh_in_front(tmp_path, FAILING_SSH.format(words=words, status=255))
    hosts = write_hosts(tmp_path, FIRST, SECOND)
    message = serve("--hosts", str(hosts), environ=environ).splitlines()[-1]
    assert f"rank 1 on host {SECOND} has ended with exit code 255: ssh cannot reach" in message
    assert words in message


@pytest.mark.long
def test_a_host_without_mlxd_or_python_or_the_folder_is_named(tmp_path: Path) -> None:
    environ = ssh_in_front(tmp_path, LOCAL_SSH.format(record="/dev/null"))
    missing = str(tmp_path / "none")
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o700)
    hosts = ("--hosts", str(write_hosts(tmp_path, FIRST, SECOND)))
    for flags, words in [
        (("--ranks-cwd", missing), f"there is no folder {missing} (ranks_cwd)"),
        (("--ranks-python", missing), f"there is no {missing} (ranks_python)"),
        (("--ranks-python", str(bare)), f"{bare} there has no mlxd"),
    ]:
        message = serve(*hosts, *flags, environ=environ).splitlines()[-1]
        assert f"rank 1 on host {SECOND} has ended" in message
        assert words in message


@pytest.mark.long
def test_other_versions_on_a_host_are_named(tmp_path: Path) -> None:
    environ = ssh_in_front(tmp_path, LOCAL_SSH.format(record="/dev/null"))
    for name, number in (("mlx", "0.1.2"), ("mlxd", "0.0.9")):
        facts = tmp_path / "other" / f"{name}-{number}.dist-info" / "METADATA"
        facts.parent.mkdir(parents=True)
        facts.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    python = tmp_path / "python"
    path = f"{tmp_path / 'other'}:{ROOT}"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} "$@"\n')
    python.chmod(0o700)
    hosts = write_hosts(tmp_path, FIRST, SECOND)
    message = serve("--hosts", str(hosts), "--ranks-python", str(python), environ=environ)
    assert f"rank 1 on host {SECOND} has mlxd 0.0.9 where rank 0 has" in message
    assert "mlx 0.1.2 where rank 0 has" in message


@pytest.mark.long
def test_a_model_that_a_host_lacks_or_has_otherwise_is_named(
    tmp_path: Path, llama_path: Path
) -> None:
    # The same hub id, in homes of their own.
    own, other = tmp_path / "own", tmp_path / "other"
    download(llama_path, own)
    script = LOCAL_SSH.format(record="/dev/null").replace("$HOME", str(other))
    environ = {**ssh_in_front(tmp_path, script), "HF_HOME": str(own / ".cache" / "huggingface")}
    flags = ("--hosts", str(write_hosts(tmp_path, FIRST, SECOND)), "--model", HUB_ID)
    message = serve(*flags, environ=environ)
    assert f"rank 1 on host {SECOND}: {HUB_ID} is not on disk" in message

    folder = download(llama_path, other)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").unlink()
    message = serve(*flags, environ=environ)
    assert f"rank 1 on host {SECOND}: it has no config.json" in message
    assert "its model.safetensors is another one" in message


@pytest.mark.long
def test_a_backend_that_mlx_lacks_is_named_with_its_hosts(tmp_path: Path) -> None:
    environ = ssh_in_front(tmp_path, LOCAL_SSH.format(record="/dev/null"))
    hosts = write_hosts(tmp_path, FIRST, SECOND, backend="nccl")
    message = serve("--hosts", str(hosts), environ=environ)
    lacking = f"MLX on rank 0 on host {FIRST}, rank 1 on host {SECOND} has no backend nccl"
    assert lacking in message or mx.distributed.is_available("nccl")
