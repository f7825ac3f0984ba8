"""Overload: requests are refused at once or after a timeout, and never hang."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import PATIENT, Daemon, running
from tests.e2e.faulty import Asked, assert_served, complete_all, faulty
from tests.e2e.mortal import Mortal, mortal
from tests.e2e.stopping import stopped
from tests.e2e.wire import COMPLETIONS, completion, connect, post, read_answer


def ask(daemon: Daemon) -> httpx.Response:
    return plain_http.post(f"{daemon.url}{COMPLETIONS}", json=completion(tokens=1))


def assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert int(answer.headers["retry-after"]) > 0


def test_past_the_queue_requests_get_429_and_those_before_them_go_on(llama_path: Path) -> None:
    flags = ["--max-running", "1", "--max-waiting", "2", "--stall-s", "900", *PATIENT]
    with running(llama_path, flags=flags) as daemon, ExitStack() as stack:
        asked = completion(tokens=1500, stream=True)
        first = stack.enter_context(
            plain_http.stream("POST", f"{daemon.url}{COMPLETIONS}", json=asked)
        )
        before = [stack.enter_context(connect(daemon)) for _ in range(2)]
        with stopped(daemon.health()["worker"]["pid"]):
            for waiting, client in enumerate(before, 1):
                client.sendall(post(completion(tokens=8)))
                daemon.wait_until("requests.waiting", be=waiting)
            for _ in range(10):
                assert_refused(ask(daemon), 429, "overloaded")
            assert plain_http.get(f"{daemon.url}/health").status_code == 200
        assert first.read().endswith(b"data: [DONE]\n\n")
        assert [read_answer(client)[0] for client in before] == [200] * 2


def test_of_a_burst_each_request_is_served_whole_or_refused_and_then_all_is_as_before() -> None:
    with faulty("--max-running", "4", "--max-waiting", "8") as daemon:
        asked = [Asked(f"burst {n}", tokens=200, stream=n % 2 == 0) for n in range(150)]
        replies = complete_all(daemon, asked)
        refused = [reply for reply in replies if reply.status == 429]
        for one, reply in zip(asked, replies, strict=True):
            if reply.status == 429:
                assert reply.error is not None
                assert reply.error["code"] == "overloaded"
                assert int(reply.headers["retry-after"]) > 0
            else:
                assert_served(one, reply)
        assert 0 < len(refused) <= len(asked) - 12
        daemon.wait_until("requests.running", be=0)
        for one, reply in zip(asked[:12], complete_all(daemon, asked[:12]), strict=True):
            assert_served(one, reply)


@pytest.fixture(scope="module")
def impatient(llama_path: Path) -> Iterator[Mortal]:
    """A service in which no request waits long."""
    with mortal(llama_path, flags=["--queue-timeout-s", "2"]) as dying:
        yield dying


def wait_served(daemon: Daemon) -> None:
    """Wait until a request is served: on a busy machine one may wait too long for its worker."""
    daemon.wait_for(lambda: ask(daemon).status_code == httpx.codes.OK)


def test_a_request_that_the_device_does_not_take_in_time_gets_503(impatient: Mortal) -> None:
    with stopped(impatient.daemon.health()["worker"]["pid"]):
        assert_refused(ask(impatient.daemon), 503, "queue_timeout")
    wait_served(impatient.daemon)


def test_during_a_restart_what_has_begun_waits_and_what_has_not_gets_503(impatient: Mortal) -> None:
    daemon, asked = impatient.daemon, completion(tokens=400, stream=True)
    wait_served(daemon)
    impatient.end_after(100)
    with ExitStack() as held:
        held.enter_context(impatient.held())
        with plain_http.stream("POST", f"{daemon.url}{COMPLETIONS}", json=asked) as answer:
            lines = answer.iter_lines()
            next(lines)
            daemon.wait_until("status", be="restarting")
            for _ in range(2):
                assert_refused(ask(daemon), 503, "queue_timeout")
            held.close()
            assert [line for line in lines if line][-1] == "data: [DONE]"
    report = daemon.wait_until("status", be="healthy")
    assert report["worker"]["last_exit"]["signal"] == "SIGKILL"
    wait_served(daemon)
