"""Misbehaving clients do not affect others and leave no resources behind."""

from __future__ import annotations

import json
import resource
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

MAX_CONNECTIONS = 40
# The listener, the worker's pipe, and the pair by which signals reach the event loop.
SOCKETS_AT_REST = 4
FLAGS = [
    *("--write-stall-s", "1"),
    *("--body-timeout-s", "2"),
    *("--max-connections", str(MAX_CONNECTIONS)),
]
UNREAD = head("POST", COMPLETIONS, "Content-Type: application/json", "Content-Length: 1000")
ENDLESS = head("POST", COMPLETIONS, "Content-Type: text/plain", "Transfer-Encoding: chunked")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
WEBSOCKET = head(
    "GET",
    "/v1/realtime",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="no /proc to count another process's descriptors"
)


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def own(
    request: pytest.FixtureRequest, llama_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A service with narrow limits, on each event loop."""
    environ = {}
    if request.param == "asyncio":
        folder = tmp_path_factory.mktemp("no-uvloop")
        (folder / "uvloop.py").write_text("raise ImportError")
        environ["PYTHONPATH"] = str(folder)
    with running(llama_path, flags=FLAGS, environ=environ) as daemon:
        yield daemon


def open_sockets(daemon: Daemon) -> int:
    return sum(name.startswith("socket:") for name in daemon.descriptors())


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Connections that stay open until the test's end."""
    with ExitStack() as stack:
        yield stack


def test_a_client_that_does_not_read_is_cut_off_and_others_are_served(
    own: Daemon, clients: ExitStack
) -> None:
    deaf = clients.enter_context(connect(own, deaf=True))
    deaf.sendall(post(completion(8, stream=True)))
    asked = completion(tokens=300, stream=True)
    answer = plain_http.post(f"{own.url}{COMPLETIONS}", json=asked)
    assert answer.text.endswith("data: [DONE]\n\n")
    own.wait_line("disconnecting clients that do not read")
    own.wait_until("requests.running", be=0)
    # What the kernels had of it can be read; the end is missing.
    assert not read_end(deaf).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_hundreds_of_clients_that_say_nothing_do_not_keep_health_from_answering(
    own: Daemon, clients: ExitStack
) -> None:
    for _ in range(5 * MAX_CONNECTIONS):
        clients.enter_context(connect(own))
    assert own.health()["status"] == "healthy"
    assert "refusing new ones" not in own.output


@needs_proc
def test_when_descriptors_run_out_clients_wait_and_are_served_when_some_are_back(
    own: Daemon, clients: ExitStack
) -> None:
    own.wait_for(lambda: open_sockets(own) == SOCKETS_AT_REST)
    before = own.output.count("\n")
    old = resource.prlimit(own.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(own.process.pid, resource.RLIMIT_NOFILE, (len(own.descriptors()) + 4, old[1]))
    try:
        waiting = [clients.enter_context(connect(own)) for _ in range(20)]
        own.wait_line("out of descriptors or memory")
        for client in waiting:
            client.close()
        assert own.health()["status"] == "healthy"
    finally:
        resource.prlimit(own.process.pid, resource.RLIMIT_NOFILE, old)
    assert own.output.count("\n") - before <= 2


@needs_proc
def test_whatever_was_sent_no_descriptor_and_no_request_is_left(own: Daemon) -> None:
    stream = post(completion(tokens=2000, stream=True))
    whole = post(completion(tokens=2000))
    oddities = [b"", b"\r\n", b"GET", GET_HEALTH, GET_HEALTH * 3, UNREAD, UNREAD + b"{", ENDLESS]
    oddities += [PREFACE, TLS_HELLO, WEBSOCKET, stream, whole, stream + GET_HEALTH, whole + stream]
    for _ in range(3):
        with ExitStack() as stack:
            opened = [stack.enter_context(connect(own)) for _ in oddities]
            for client, sent in zip(opened, oddities, strict=True):
                client.sendall(sent)
            own.wait_until("status", be="healthy")
    own.wait_until("requests.running", be=0)
    own.wait_until("requests.waiting", be=0)
    own.wait_for(lambda: open_sockets(own) == SOCKETS_AT_REST)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (UNREAD, 408),
        (UNREAD + b"{", 408),
        (ENDLESS, 415),
        (WEBSOCKET, 404),
        (PREFACE, 505),
        (TLS_HELLO, 400),
    ],
)
def test_what_cannot_be_served_is_told_in_json(own: Daemon, sent: bytes, status: int) -> None:
    with connect(own) as client:
        client.sendall(sent)
        told, headers, body = read_answer(client)
    assert told == status
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_head_options_and_http_1_0_are_answered(own: Daemon) -> None:
    assert plain_http.request("HEAD", f"{own.url}/health").status_code == 200
    refused = plain_http.request("OPTIONS", f"{own.url}{COMPLETIONS}")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert refused.json()["error"]["code"] == "method_not_allowed"
    with connect(own) as client:
        asked = post(completion(tokens=4, stream=True))
        client.sendall(asked.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1))
        answer = read_end(client)
    assert answer.endswith(b"data: [DONE]\n\n")
    assert b"transfer-encoding" not in answer.lower()


def test_after_all_that_no_traceback_was_written(own: Daemon) -> None:
    assert "Traceback" not in own.output
    assert own.wait_until("status", be="healthy")["worker"]["restarts"] == 0
