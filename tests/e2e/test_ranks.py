"""Several ranks answer as one process does, also where one of them is lost."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.ranked import answer_all, answer_while, make_requests, rank_pids
from tests.models import families
from tests.models.architectures.making import build, write
from tests.models.architectures.scaling import deepen
from tests.models.architectures.table import config_of
from tests.waiting import HANG_S

FLAGS = ("--stall-s", "60", "--speculation", "on")
# Their heads can be distributed over three ranks.
SIZES = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
}


@pytest.fixture(scope="module")
def ranked(llama_path: Path) -> Iterator[Daemon]:
    """A service of two ranks; the last test kills it."""
    with running(llama_path, flags=["--ranks", "2", *FLAGS]) as daemon:
        yield daemon


@pytest.mark.anyio
async def test_mixed_requests_get_the_answers_of_one_process(
    ranked: Daemon, daemon: Daemon
) -> None:
    bodies = make_requests(10, tokens=6)
    expected = await answer_all(daemon, bodies)
    # The second time they continue from the prompt cache.
    assert [await answer_all(ranked, bodies) for _ in range(2)] == [expected] * 2


@pytest.mark.long
@pytest.mark.anyio
async def test_32_mixed_requests_get_the_answers_of_one_process(
    ranked: Daemon, daemon: Daemon
) -> None:
    bodies = make_requests(32, tokens=24)
    expected = await answer_all(daemon, bodies)
    assert [await answer_all(ranked, bodies) for _ in range(2)] == [expected] * 2


@pytest.mark.long
@pytest.mark.anyio
async def test_three_ranks_answer_as_one_process(tmp_path: Path) -> None:
    family = dataclasses.replace(families.LLAMA, sizes={**families.LLAMA.sizes, **SIZES})
    path = families.make(family, tmp_path / "llama")
    bodies = make_requests(32, tokens=6)
    with running(path) as one, running(path, flags=["--ranks", "3", *FLAGS]) as three:
        expected = await answer_all(one, bodies)
        assert [await answer_all(three, bodies) for _ in range(2)] == [expected] * 2
        assert await answer_while(three, bodies, 2, signal.SIGKILL) == expected


@pytest.mark.long
@pytest.mark.anyio
async def test_three_ranks_of_a_pipeline_answer_as_one_process(tmp_path: Path) -> None:
    config = deepen(config_of("qwen3_next"), 6)
    path = write(tmp_path / "qwen3_next", build(config), config)
    bodies = make_requests(32, tokens=6)
    with running(path) as one, running(path, flags=["--ranks", "3", *FLAGS]) as three:
        assert [split_of(daemon) for daemon in (one, three)] == [(None, None), ("pipeline",) * 2]
        expected = await answer_all(one, bodies)
        assert [await answer_all(three, bodies) for _ in range(2)] == [expected] * 2
        assert await answer_while(three, bodies, 1, signal.SIGKILL) == expected


def split_of(daemon: Daemon) -> tuple[str | None, str | None]:
    """How its model is split, as health and capabilities say."""
    capabilities = plain_http.get(f"{daemon.url}/v1/capabilities").json()
    [health], [model] = daemon.health()["models"], capabilities["data"]
    return health["split"], model["split"]


@pytest.mark.long
@pytest.mark.anyio
async def test_a_killed_rank_is_a_pause(ranked: Daemon, daemon: Daemon) -> None:
    bodies = make_requests(7, tokens=24)
    expected = await answer_all(daemon, bodies)
    restarts = ranked.health()["worker"]["restarts"]
    assert await answer_while(ranked, bodies, 1, signal.SIGKILL) == expected
    ranked.wait_for(lambda: ranked.health()["worker"]["restarts"] > restarts)
    worker = ranked.wait_until("status", be="healthy")["worker"]
    assert "rank 1 has ended with signal SIGKILL" in worker["last_exit"]["reason"]
    assert worker["ranks"][1]["restarts"]["killed"] == 1
    metrics = plain_http.get(f"{ranked.url}/metrics").text
    assert re.search(
        r'mlxd_worker_rank_losses_total{[^}]*cause="killed"[^}]*rank="1"[^}]*} 1', metrics
    )


@pytest.mark.long
@pytest.mark.anyio
async def test_a_stopped_rank_is_a_pause(ranked: Daemon, daemon: Daemon) -> None:
    bodies = make_requests(7, tokens=40)
    expected = await answer_all(daemon, bodies)
    restarts, stopped = ranked.health()["worker"]["restarts"], rank_pids(ranked)[1]
    assert await answer_while(ranked, bodies, 1, signal.SIGSTOP) == expected
    ranked.wait_for(lambda: ranked.health()["worker"]["restarts"] > restarts)
    assert not psutil.pid_exists(stopped)


def test_each_rank_is_shown(ranked: Daemon) -> None:
    ranks = ranked.wait_until("status", be="healthy")["worker"]["ranks"]
    assert split_of(ranked) == ("tensor", "tensor")
    assert [(rank["rank"], rank["state"], rank["host"]) for rank in ranks] == [
        (0, "running", "localhost"),
        (1, "running", "localhost"),
    ]
    assert len({rank["pid"] for rank in ranks}) == 2


@pytest.mark.parametrize("name", ["prompt_cache_dir", "draft_model"])
def test_settings_that_ranks_cannot_have_are_refused(name: str, tmp_path: Path) -> None:
    words = ["serve", "--ranks", "2", f"--{name.replace('_', '-')}", str(tmp_path)]
    completed = subprocess.run(
        [sys.executable, "-m", "service", *words], capture_output=True, text=True, check=False
    )
    assert completed.returncode != 0
    assert f"{name}: cannot be used with ranks" in completed.stderr


def test_the_end_of_the_service_is_the_end_of_all_ranks(ranked: Daemon) -> None:
    ranked.wait_until("status", be="healthy")
    ranks = [psutil.Process(pid) for pid in rank_pids(ranked)]
    ranks[1].suspend()
    ranked.process.kill()
    _, left = psutil.wait_procs(ranks, timeout=HANG_S)
    assert (len(ranks), left) == (2, [])
