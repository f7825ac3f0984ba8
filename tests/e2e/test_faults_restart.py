"""Restarts of the worker: less work at once, back-off, and no leaked resources."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import STALL_S, Asked, assert_served, complete_all, faulty
from tests.e2e.footprint import footprint_of, wait_until_back
from tests.fakes.worker import token_at

KILLS = 50
GROWTH_BYTES = 8 * 2**20
# Long enough to be seen running, however seldom that is looked at.
LONG_TOKENS = 1500
CROWD = [Asked(f"one of a crowd {n}", tokens=LONG_TOKENS) for n in range(7)]


def kill_worker(daemon: Daemon) -> int:
    """Kill the worker that is healthy now; how many had died before."""
    worker = daemon.wait_until("status", be="healthy")["worker"]
    os.kill(worker["pid"], signal.SIGKILL)
    restarts: int = worker["restarts"]
    return restarts


# ---------------------------------------------------------------- memory


@pytest.mark.long
@pytest.mark.parametrize("kind", ["memory", "die"])
def test_after_a_death_for_want_of_memory_half_runs_at_once_until_the_worker_is_sound(
    kind: str,
) -> None:
    asked = [*CROWD, Asked(f"[{kind} 10]", tokens=LONG_TOKENS)]
    sound = ["--sound-after-s", "1.5", "--deaths-tolerated", "2"]
    with (
        faulty("--max-running", "8", *sound) as daemon,
        ThreadPoolExecutor(1) as clients,
    ):
        replies = clients.submit(complete_all, daemon, asked)
        daemon.wait_until("worker.restarts", be=1)
        daemon.wait_until("requests.running", be=4)
        daemon.wait_until("requests.running", be=8)
        # That worker was sound, so this is a first death again.
        kill_worker(daemon)
        for one, reply in zip(asked, replies.result(), strict=True):
            assert_served(one, reply)
    assert "running at most 4 sequences per model" in daemon.output
    assert "running at most 8 sequences per model again" in daemon.output


def test_another_death_changes_nothing_about_how_much_runs_at_once() -> None:
    asked = [*CROWD, Asked("[abort 10]", tokens=LONG_TOKENS)]
    with faulty("--max-running", "8") as daemon, ThreadPoolExecutor(1) as clients:
        replies = clients.submit(complete_all, daemon, asked)
        daemon.wait_until("worker.restarts", be=1)
        daemon.wait_until("requests.running", be=8)
        for one, reply in zip(asked, replies.result(), strict=True):
            assert_served(one, reply)


# ---------------------------------------------------------------- too many deaths


def test_too_many_deaths_are_503_with_the_reason_and_the_next_worker_mends_it(
    tmp_path: Path,
) -> None:
    asked = Asked("waits in vain", tokens=10**5)
    both = [asked, Asked("too", tokens=10**5, stream=True)]
    flags = ["--deaths-tolerated", "2", "--sound-after-s", "3600"]
    source = f"{tmp_path}/starts[held 2]"
    with faulty(*flags, source=source) as daemon, ThreadPoolExecutor(2) as clients:
        replies = clients.submit(complete_all, daemon, both)
        daemon.wait_until("requests.running", be=2)
        kill_worker(daemon)
        daemon.wait_until("worker.restarts", be=1)
        daemon.wait_until("requests.running", be=2)
        kill_worker(daemon)
        report = daemon.wait_until("status", be="failed")
        refused = plain_http.post(f"{daemon.url}/v1/completions", json=asked.body)
        whole, streamed = replies.result()
        (tmp_path / "starts.released").touch()
        daemon.wait_until("status", be="healthy")
        [after] = complete_all(daemon, [Asked("after")])
    assert "signal SIGKILL" in report["reason"]
    for error in (whole.error, streamed.error, refused.json()["error"]):
        assert error is not None
        assert (error["code"], error["message"]) == ("failed", report["reason"])
    assert (whole.status, refused.status_code) == (503, 503)
    assert int(refused.headers["retry-after"]) > 0
    assert_served(Asked("after"), after)


# ---------------------------------------------------------------- nothing is left


@pytest.fixture(scope="module")
def own() -> Iterator[Daemon]:
    with faulty(stall_s=STALL_S) as daemon:
        yield daemon


def wait_output_tokens(daemon: Daemon, count: int) -> None:
    """Wait until `count` more tokens were generated."""
    this_second = int(plain_http.get(f"{daemon.url}/status").json()["now"]) - 1

    def generated() -> int:
        status = plain_http.get(f"{daemon.url}/status?after={this_second}").json()
        return sum(second["tokens"] for second in status["seconds"])

    before = generated()
    daemon.wait_for(lambda: generated() >= before + count)


@pytest.mark.long
def test_one_stream_outlives_fifty_workers_and_they_leave_nothing(own: Daemon) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("there is no /proc to count in")
    asked = Asked("one stream", tokens=10**6, stream=True)
    with plain_http.stream("POST", f"{own.url}/v1/completions", json=asked.body) as answer:
        events = (line for line in answer.iter_lines() if line.startswith("data: {"))
        position = 0
        for kills in range(KILLS + 5):
            if kills == 5:
                before = footprint_of(own.process.pid)
            kill_worker(own)
            own.wait_until("worker.restarts", be=kills + 1)
            # A client that lags behind may read tokens of an earlier worker for a while. The
            # request is blamed unless this worker generates some, too.
            wait_output_tokens(own, 60)
            for _ in range(60):
                assert token_at(asked.prompt, position)[1] in next(events)
                position += 1
    own.wait_until("requests.running", be=0)
    wait_until_back(own.process.pid, before, growth_bytes=GROWTH_BYTES)


def test_a_service_that_was_itself_stopped_does_not_take_its_worker_for_silent(own: Daemon) -> None:
    worker = own.wait_until("status", be="healthy")["worker"]["pid"]
    with plain_http.stream(
        "POST", f"{own.url}/v1/completions", json=Asked("x", 10**5, stream=True).body
    ) as answer:
        events = answer.iter_lines()
        next(events)
        own.signal(signal.SIGSTOP)
        # Its stall timer must not count this time.
        time.sleep(1.5 * STALL_S)
        own.signal(signal.SIGCONT)
        for _ in range(100):
            next(events)
    assert own.health()["worker"]["pid"] == worker
