"""A rank that is killed or stopped at any stage is a pause: at the start, at work, and idle."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from tests.e2e.daemon import Daemon, running
from tests.e2e.ranked import answer_all, answer_during, make_requests
from tests.waiting import HANG_S, wait_for

pytestmark = [pytest.mark.long, pytest.mark.anyio]

# A rank is silent after half of `stall_s`. That many restarts in a row do not fail the service.
PROGRAM = "tests.fakes.service"
FLAGS = (
    *("--worker", "worker", "--ranks", "2", "--stall-s", "20"),
    *("--ranks-away-s", "3600", "--queue-timeout-s", "3600"),
)
Stage = Literal["start", "met", "prefill", "decode"]
KILL, STOP = signal.SIGKILL, signal.SIGSTOP
CASES: list[tuple[Stage, int, signal.Signals]] = [
    *(("start", rank, number) for rank in (0, 1) for number in (KILL, STOP)),
    *(("met", 1, number) for number in (KILL, STOP)),
    ("prefill", 0, KILL),
    ("prefill", 1, STOP),
    ("decode", 0, KILL),
    *(("decode", rank, STOP) for rank in (0, 1)),
]
# The processor time of a rank until it works, about.
START_S = 3.0
KILLS = 6


@pytest.fixture(scope="module")
def ranked(llama_path: Path) -> Iterator[Daemon]:
    """A service of two ranks that tolerates any number of restarts; the last test kills it."""
    with running(llama_path, flags=FLAGS, program=PROGRAM) as daemon:
        yield daemon


def processes(daemon: Daemon) -> list[psutil.Process]:
    """Its ranks, once they are started."""
    found: list[psutil.Process] = []

    def have_started() -> bool:
        found.clear()
        for rank in daemon.health()["worker"]["ranks"]:
            if rank["pid"] is None or not psutil.pid_exists(rank["pid"]):
                return False
            found.append(psutil.Process(rank["pid"]))
        return True

    wait_for(have_started)
    return found


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a rank, unless it has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def has_worked(daemon: Daemon, rank: psutil.Process, seconds: float) -> bool:
    """Whether a rank has taken so much processor time, has ended, or all ranks are ready."""
    try:
        times = rank.cpu_times()
    except psutil.NoSuchProcess:
        return True
    spent_s: float = times.user + times.system
    return spent_s >= seconds or bool(daemon.health()["status"] == "healthy")


def begin_restart(daemon: Daemon, stage: Stage) -> None:
    """Let all ranks start again, and wait until they do, or have met."""
    _, lost = processes(daemon)
    send(lost, KILL)

    def is_there() -> bool:
        rank = daemon.health()["worker"]["ranks"][1]
        is_new = rank["pid"] not in (None, lost.pid)
        return is_new and (stage == "start" or rank["state"] == "running")

    wait_for(is_there)


def requests_for(stage: Stage) -> list[dict[str, Any]]:
    """Requests that are at this stage once they run."""
    bodies = make_requests(5, tokens=120)
    if stage == "prefill":
        for body in bodies:
            body["messages"][0]["content"] += " many words" * 600
    return bodies


@pytest.mark.parametrize(("stage", "rank", "number"), CASES)
async def test_a_rank_lost_at_work_is_a_pause(
    ranked: Daemon, daemon: Daemon, stage: Stage, rank: int, number: signal.Signals
) -> None:
    bodies = requests_for(stage)
    expected = await answer_all(daemon, bodies)
    ranked.wait_until("status", be="healthy")
    restarts = ranked.health()["worker"]["restarts"]

    def lose() -> None:
        if stage in ("start", "met"):
            begin_restart(ranked, stage)
        send(processes(ranked)[rank], number)

    assert await answer_during(ranked, bodies, lose) == expected
    wait_for(lambda: ranked.health()["worker"]["restarts"] > restarts)
    ranked.wait_until("status", be="healthy")


@pytest.mark.parametrize(("rank", "number"), [(1, KILL), (0, STOP), (1, STOP)])
async def test_a_rank_lost_while_idle_is_noticed(
    ranked: Daemon, daemon: Daemon, rank: int, number: signal.Signals
) -> None:
    bodies = make_requests(5)
    ranked.wait_until("status", be="healthy")
    restarts, lost = ranked.health()["worker"]["restarts"], processes(ranked)[rank]
    lost.send_signal(number)
    wait_for(lambda: ranked.health()["worker"]["restarts"] > restarts)
    assert not lost.is_running()
    assert await answer_all(ranked, bodies) == await answer_all(daemon, bodies)


async def test_ranks_killed_at_any_time_of_their_starts_are_pauses(
    ranked: Daemon, daemon: Daemon
) -> None:
    chance = random.Random(0)
    bodies = make_requests(5, tokens=120)
    expected = await answer_all(daemon, bodies)

    def kill_often() -> None:
        """One kill at work, the others before the requests are at work again: none is blamed."""
        begin_restart(ranked, "start")
        for _ in range(KILLS):
            rank = processes(ranked)[chance.randrange(2)]
            wait_for(partial(has_worked, ranked, rank, START_S * chance.random()))
            if ranked.health()["status"] == "healthy":
                return
            send(rank, KILL)

    assert await answer_during(ranked, bodies, kill_often) == expected


async def test_a_service_killed_while_its_ranks_start_leaves_none(ranked: Daemon) -> None:
    ranked.wait_until("status", be="healthy")
    begin_restart(ranked, "start")
    ranks = processes(ranked)
    ranks[0].suspend()
    ranked.process.kill()
    _, left = psutil.wait_procs(ranks, timeout=HANG_S)
    assert (len(ranks), left) == (2, [])
