"""The service stops in time after a signal, whatever clients are connected."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.wire import (
    COMPLETIONS,
    GET_HEALTH,
    completion,
    connect,
    head,
    post,
    read_answer,
    read_end,
)

# The clients below would not end by themselves: what ends in spite of them did not wait for them.
HOUR_S = 3600
PATIENT = ["--write-stall-s", str(HOUR_S), "--body-timeout-s", str(HOUR_S)]
STREAM = completion(8, stream=True)


@pytest.fixture(params=["asyncio", "uvloop"])
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """An environment in which the service runs on this event loop."""
    if request.param == "uvloop":
        return {}
    (tmp_path / "uvloop.py").write_text("raise ImportError")
    return {"PYTHONPATH": str(tmp_path)}


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Connections that stay open until the test's end."""
    with ExitStack() as stack:
        yield stack


def crowd(daemon: Daemon, clients: ExitStack) -> socket.socket:
    """Connects every kind of client that could hold up an end; the idle one of them."""
    unread = head("POST", COMPLETIONS, "Content-Type: application/json", "Content-Length: 1000")
    for sent in (post(STREAM), unread + b"{", post(STREAM) + GET_HEALTH, GET_HEALTH[:9], b""):
        clients.enter_context(connect(daemon, deaf=True)).sendall(sent)
    idle = clients.enter_context(connect(daemon))
    idle.sendall(GET_HEALTH)
    assert read_answer(idle)[0] == 200
    daemon.wait_until("requests.running", be=16)
    return idle


def assert_ended_cleanly(daemon: Daemon, worker: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert "Traceback" not in daemon.output
    assert "Exception" not in daemon.output


@pytest.mark.parametrize(
    ("environ", "number"),
    [
        ("uvloop", signal.SIGTERM),
        ("asyncio", signal.SIGINT),
        pytest.param("uvloop", signal.SIGINT, marks=pytest.mark.long),
        pytest.param("asyncio", signal.SIGTERM, marks=pytest.mark.long),
    ],
    indirect=["environ"],
)
def test_a_signal_ends_it_in_time_whatever_clients_are_connected(
    llama_path: Path, environ: dict[str, str], clients: ExitStack, number: signal.Signals
) -> None:
    flags = [*PATIENT, "--drain-s", "1"]
    with running(llama_path, flags=flags, environ=environ) as daemon:
        worker = daemon.health()["worker"]["pid"]
        crowd(daemon, clients)
        with plain_http.stream("POST", f"{daemon.url}{COMPLETIONS}", json=STREAM) as answer:
            lines = answer.iter_lines()
            next(lines)
            daemon.signal(number)
            events = [line for line in lines if line]
        assert daemon.wait() == 0
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "draining")
    assert_ended_cleanly(daemon, worker)


def test_while_it_drains_old_and_new_connections_are_told_so_until_a_second_signal(
    llama_path: Path, environ: dict[str, str], clients: ExitStack
) -> None:
    flags = [*PATIENT, "--drain-s", str(HOUR_S)]
    with running(llama_path, flags=flags, environ=environ) as daemon:
        idle = crowd(daemon, clients)
        daemon.signal(signal.SIGHUP)
        daemon.signal(signal.SIGTERM)
        daemon.wait_until("status", be="draining")
        new = clients.enter_context(connect(daemon))
        for client in (idle, new):
            client.sendall(GET_HEALTH)
            status, _, body = read_answer(client)
            assert (status, json.loads(body)["status"]) == (503, "draining")
            client.sendall(post(completion(tokens=1)))
            status, headers, body = read_answer(client)
            assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
            assert int(headers["retry-after"]) > 0
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 128 + signal.SIGTERM


def test_a_drain_without_requests_closes_idle_connections_and_ends(
    llama_path: Path, clients: ExitStack
) -> None:
    with running(llama_path, flags=["--drain-s", str(HOUR_S)]) as daemon:
        worker = daemon.health()["worker"]["pid"]
        idle = clients.enter_context(connect(daemon))
        idle.sendall(GET_HEALTH)
        assert read_answer(idle)[0] == 200
        daemon.signal(signal.SIGTERM)
        assert read_end(idle) == b""
        assert daemon.wait() == 0
    assert_ended_cleanly(daemon, worker)
