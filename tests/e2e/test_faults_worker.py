"""Whatever becomes of a worker, only the request that is the cause of it hears of it.

The worker is the fake one: its answers are known, and a prompt asks for its fault.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.supervision.supervisor import TICKS_PER_TIMEOUT
from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import STALL_S, Asked, Reply, assert_served, complete_all, faulty
from tests.e2e.wire import connect, post, read_answer
from tests.fakes.worker import ABORT_TEXT, FLOOD_LINE, FLOOD_LINES, SLOW_PINGS

FROZEN = f"no answer to a ping for {STALL_S:g} s"
HUNG = f"a device call did not end within {STALL_S:g} s"
LOAD_TIMEOUT_S = 10
INNOCENT = [Asked(f"innocent {n}", tokens=40 + 20 * n, stream=n % 2 == 0) for n in range(6)]


@pytest.fixture(scope="module")
def own() -> Iterator[Daemon]:
    """A service that is left as it was found: all its faults strike once, or with their cause."""
    with faulty(stall_s=STALL_S) as daemon:
        yield daemon


def assert_blamed(reply: Reply) -> None:
    """The request was told that it ends workers."""
    assert reply.error is not None
    assert (reply.error["type"], reply.error["code"]) == ("server_error", "worker_crashed")


# ---------------------------------------------------------------- poison


def test_a_poisonous_request_fails_alone_and_says_not_to_retry(own: Daemon) -> None:
    poison = Asked("[die 5 always]")
    *replies, blamed = complete_all(own, [*INNOCENT, poison])
    assert blamed.status == 500
    assert blamed.headers["x-should-retry"] == "false"
    assert_blamed(blamed)
    for asked, reply in zip(INNOCENT, replies, strict=True):
        assert_served(asked, reply)


def test_a_poisonous_stream_that_has_begun_ends_in_an_error_event(own: Daemon) -> None:
    poison = Asked("[abort 30 always]", stream=True)
    *replies, blamed = complete_all(own, [*INNOCENT, poison])
    assert blamed.status == 200
    assert blamed.text == poison.expected[: len(blamed.text)] != ""
    assert_blamed(blamed)
    for asked, reply in zip(INNOCENT, replies, strict=True):
        assert_served(asked, reply)


def test_two_poisonous_requests_fail_and_those_beside_them_finish(own: Daemon) -> None:
    poison = [Asked("[die 0 always]"), Asked("[device 20 always]")]
    replies = complete_all(own, [*INNOCENT, *poison])
    for blamed in replies[len(INNOCENT) :]:
        assert blamed.status == 500
        assert_blamed(blamed)
    for asked, reply in zip(INNOCENT, replies, strict=False):
        assert_served(asked, reply)


def test_requests_that_wait_behind_a_poisonous_one_are_not_blamed() -> None:
    with faulty("--max-running", "1", stall_s=STALL_S) as daemon:
        replies = complete_all(daemon, [Asked("[die 3 always]"), *INNOCENT])
    assert_blamed(replies[0])
    for asked, reply in zip(INNOCENT, replies[1:], strict=True):
        assert_served(asked, reply)


# ---------------------------------------------------------------- ends of every kind


@pytest.mark.parametrize(
    ("kind", "signalled", "reason"),
    [
        ("die", "SIGKILL", "signal SIGKILL"),
        ("abort", "SIGABRT", "signal SIGABRT"),
        ("device", None, "the device failed: [Event::wait] Timed out"),
        ("truncated", None, "exit code 1"),
        ("garbage", "SIGKILL", "signal SIGKILL"),
        ("nonsense", "SIGKILL", "signal SIGKILL"),
        ("hang", "SIGTERM", HUNG),
        ("hang-mid-message", "SIGTERM", FROZEN),
        ("freeze", "SIGKILL", FROZEN),
    ],
)
def test_a_workers_end_is_a_pause_and_is_told_by_health(
    own: Daemon, kind: str, signalled: str | None, reason: str
) -> None:
    asked = [*INNOCENT, Asked(f"[{kind} 12]", stream=True)]
    for one, reply in zip(asked, complete_all(own, asked), strict=True):
        assert_served(one, reply)
    report = own.wait_until("status", be="healthy")
    last_exit = report["worker"]["last_exit"]
    assert (last_exit["signal"], last_exit["phase"]) == (signalled, "busy")
    assert last_exit["reason"] == reason
    assert (last_exit["code"] is None) == (signalled is not None)
    assert last_exit["uptime_s"] > 0


def test_a_worker_that_hangs_and_hears_no_sigterm_is_killed_and_health_says_restarting(
    own: Daemon,
) -> None:
    with plain_http.stream(
        "POST", f"{own.url}/v1/completions", json=Asked("[deaf 3]", stream=True).body
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        report = own.wait_until("status", be="restarting")
        assert report["worker"]["pid"] is not None
        assert plain_http.get(f"{own.url}/health").status_code == 503
        assert "data: [DONE]" in list(lines)
    last_exit = own.wait_until("status", be="healthy")["worker"]["last_exit"]
    assert last_exit["signal"] == "SIGKILL"


def test_the_last_words_of_an_aborted_worker_are_shown_logged_and_told_by_health(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    with faulty("--log-file", str(log), stall_s=STALL_S) as daemon:
        asked = [*INNOCENT, Asked("[abort-loudly 12]", stream=True)]
        for one, reply in zip(asked, complete_all(daemon, asked), strict=True):
            assert_served(one, reply)
        last_exit = daemon.wait_until("status", be="healthy")["worker"]["last_exit"]
    assert last_exit["signal"] == "SIGABRT"
    escaped = ascii(ABORT_TEXT.strip())[1:-1]
    assert last_exit["reason"].startswith("signal SIGABRT; its standard error ended with: …")
    assert last_exit["reason"].endswith(escaped)
    assert ABORT_TEXT in daemon.output
    assert daemon.output.count(FLOOD_LINE) == FLOOD_LINES
    assert last_exit["reason"] in json.loads(error_of(log))["message"]


def test_paths_in_last_words_are_for_administrators() -> None:
    keys = {"user": "user-" + "k" * 32, "boss": "boss-" + "k" * 32}
    listed = f"user:{keys['user']},boss:admin:{keys['boss']}"
    headers = {name: {"authorization": f"Bearer {key}"} for name, key in keys.items()}
    with faulty(environ={"MLXD_API_KEYS": listed}, stall_s=STALL_S) as daemon:
        url, body = f"{daemon.url}/v1/completions", Asked("[abort-loudly 12]").body
        assert plain_http.post(url, json=body, headers=headers["user"]).status_code == 200
        reports = {
            name: plain_http.get(f"{daemon.url}/health", headers=headers[name]).json()["worker"]
            for name in keys
        }
    for name, sees_paths in (("user", False), ("boss", True)):
        for reason in (
            reports[name]["last_exit"]["reason"],
            reports[name]["prefill"]["shortened_because"],
        ):
            assert "GPU Timeout" in reason
            assert ("/Users/me" in reason) is sees_paths


def error_of(log: Path) -> str:
    """The line of the log that tells the worker's exit."""
    [line] = [line for line in log.read_text("utf-8").splitlines() if "up " in line]
    return line


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("watchdog", "GPU Timeout"),
        pytest.param("abort-loudly", "GPU Timeout", marks=pytest.mark.long),
        ("hang", HUNG),
    ],
)
def test_after_a_device_call_that_took_too_long_slices_are_shorter(kind: str, cause: str) -> None:
    with faulty("--prefill-step-tokens", "512", stall_s=STALL_S) as daemon:
        before = daemon.health()["worker"]["prefill"]
        asked = [*INNOCENT, Asked(f"[{kind} 12]", stream=True)]
        for one, reply in zip(asked, complete_all(daemon, asked), strict=True):
            assert_served(one, reply)
        worker = daemon.wait_until("status", be="healthy")["worker"]
    assert before == {"rows": 8, "step_tokens": 512, "slice_s": 1.0, "shortened_because": None}
    assert cause in worker["last_exit"]["reason"]
    assert worker["prefill"] == {
        "rows": 4,
        "step_tokens": 256,
        "slice_s": 0.5,
        "shortened_because": worker["last_exit"]["reason"],
    }


def test_a_device_call_that_was_reckoned_slow_is_not_taken_for_a_hang(own: Daemon) -> None:
    before = own.wait_until("status", be="healthy")["worker"]["pid"]
    asked = [Asked("[slow 3]"), Asked("beside", stream=True)]
    for one, reply in zip(asked, complete_all(own, asked), strict=True):
        assert_served(one, reply)
    # The service sends this many pings in `STALL_S`.
    assert SLOW_PINGS > TICKS_PER_TIMEOUT
    assert own.health()["worker"]["pid"] == before


def test_an_idle_worker_that_is_frozen_is_replaced(own: Daemon) -> None:
    worker = own.wait_until("status", be="healthy")["worker"]
    os.kill(worker["pid"], signal.SIGSTOP)
    own.wait_for(lambda: own.health()["worker"]["restarts"] > worker["restarts"])
    last_exit = own.wait_until("status", be="healthy")["worker"]["last_exit"]
    assert (last_exit["phase"], last_exit["reason"]) == ("idle", FROZEN)


def test_an_idle_worker_that_answers_pings_may_be_silent_for_ever(own: Daemon) -> None:
    before = own.wait_until("status", be="healthy")["worker"]
    later_s = before["uptime_s"] + 1.5 * STALL_S
    own.wait_for(lambda: own.health()["worker"]["uptime_s"] > later_s)
    assert own.health()["worker"]["pid"] == before["pid"]


def test_a_worker_that_is_killed_with_requests_unread_is_replaced(own: Daemon) -> None:
    worker = own.wait_until("status", be="healthy")["worker"]
    os.kill(worker["pid"], signal.SIGSTOP)
    with connect(own) as client:
        client.sendall(post(Asked("unread").body))
        own.wait_until("requests.waiting", be=1)
        os.kill(worker["pid"], signal.SIGKILL)
        status, _, body = read_answer(client)
    assert status == 200
    assert json.loads(body)["choices"][0]["text"] == Asked("unread").expected
    assert own.health()["worker"]["restarts"] == worker["restarts"] + 1


# ---------------------------------------------------------------- loading


@pytest.mark.long
def test_a_worker_that_never_loads_is_replaced_and_what_waits_for_it_is_served(
    tmp_path: Path,
) -> None:
    # More than a worker that is not at fault needs, on any machine.
    flags = ["--load-timeout-s", str(LOAD_TIMEOUT_S)]
    with faulty(*flags, source=f"{tmp_path}/starts[hang 1]", stall_s=STALL_S) as daemon:
        os.kill(daemon.health()["worker"]["pid"], signal.SIGKILL)
        daemon.wait_until("status", be="restarting")
        [reply] = complete_all(daemon, [INNOCENT[0]])
        last_exit = daemon.health()["worker"]["last_exit"]
    assert_served(INNOCENT[0], reply)
    assert last_exit["phase"] == "loading"
    assert last_exit["reason"] == f"no sign of progress for {LOAD_TIMEOUT_S} s"


def test_a_service_whose_first_worker_never_loads_ends_and_says_why(tmp_path: Path) -> None:
    source = f"{tmp_path}/starts[hang 0]"
    with faulty("--load-timeout-s", "0.5", source=source, wait=False) as daemon:
        assert daemon.wait() == 1
    assert "mlxd: the worker exited: no sign of progress for 0.5 s" in daemon.output
