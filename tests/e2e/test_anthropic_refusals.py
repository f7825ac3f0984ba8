"""Whatever refuses a request of an Anthropic client, the client reads its error and its id."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import anthropic
import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import faulty
from tests.e2e.keys import KEYS, NAMED, bearer
from tests.e2e.wire import connect, head, post, read_answer, read_end

MAX_BODY_BYTES = 20_000
MESSAGES = "/v1/messages"
VERSION = {"anthropic-version": "2023-06-01"}
PATHS = (MESSAGES, f"{MESSAGES}/count_tokens", "/messages", "/messages/count_tokens")


def body(content: str = "hello", **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": content}
    return {"model": "fake", "max_tokens": 20, "messages": [message], **more}


@pytest.fixture(scope="module")
def service() -> Iterator[Daemon]:
    with faulty("--max-body-bytes", str(MAX_BODY_BYTES), environ=KEYS) as daemon:
        yield daemon


@pytest.fixture
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        client.headers.update(bearer(NAMED))
        yield client


class Answer(Protocol):
    """What httpx answers, and what the SDK's errors hold."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def json(self) -> Any: ...


def kind_of(answer: Answer) -> tuple[int, str]:
    """The status and the type of an error of Anthropic's shape."""
    found = answer.json()
    assert set(found) == {"type", "error", "request_id"}
    assert found["type"] == "error"
    assert set(found["error"]) == {"type", "message"}
    assert found["error"]["message"]
    ids = found["request_id"], answer.headers["request-id"], answer.headers["x-request-id"]
    assert len(set(ids)) == 1
    return answer.status_code, found["error"]["type"]


@pytest.mark.parametrize("path", PATHS)
def test_what_precedes_the_endpoint_refuses_in_its_shape(http: httpx.Client, path: str) -> None:
    sent = {"content-type": "application/json"}
    large = json.dumps(body("x" * MAX_BODY_BYTES))
    assert kind_of(http.post(path, json=body(), headers=bearer("wrong"))) == (
        401,
        "authentication_error",
    )
    assert kind_of(http.get(path)) == (405, "invalid_request_error")
    assert kind_of(http.post(path, content=large, headers=sent)) == (413, "request_too_large")
    assert kind_of(http.post(path, content=b"x")) == (415, "invalid_request_error")
    assert kind_of(http.post(path, content=b"{", headers=sent)) == (400, "invalid_request_error")
    assert kind_of(http.post(path, json=body(model="no"))) == (404, "not_found_error")
    evil = {"origin": "https://evil.example"}
    assert kind_of(http.post(path, json=body(), headers=evil)) == (403, "permission_error")
    assert kind_of(http.post(f"{path}/nothing", json={})) == (404, "not_found_error")
    wide = {"x-wide": "x" * 20_000}
    assert kind_of(http.post(path, json=body(), headers=wide)) == (431, "invalid_request_error")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/none", "/models"])
def test_the_models_refuse_in_the_shape_that_the_version_asks_for(
    service: Daemon, path: str
) -> None:
    with plain_http.client(service.url) as client:
        assert kind_of(client.get(path, headers=VERSION)) == (401, "authentication_error")
        assert client.get(path).json()["error"]["code"] == "invalid_api_key"


def test_bytes_that_are_no_request_are_answered_in_its_shape(service: Daemon) -> None:
    for lines in (["Content-Length: x"], ["no colon"], ["Transfer-Encoding: gzip"]):
        with connect(service) as client:
            client.sendall(head("POST", MESSAGES, *lines))
            status, headers, found = read_answer(client)
        error = json.loads(found)
        assert status >= 400
        assert error["type"] == "error"
        assert error["request_id"] == headers["request-id"]


def test_a_full_service_and_one_that_stops_are_told_apart() -> None:
    limits = ("--max-running", "1", "--max-waiting", "1", "--drain-s", "1")
    endless = post(body(max_tokens=900_000, stream=True), MESSAGES)
    with (
        faulty(*limits) as daemon,
        anthropic.Anthropic(base_url=daemon.url, api_key="k", max_retries=0) as claude,
        connect(daemon) as running,
        connect(daemon) as waiting,
    ):
        running.sendall(endless)
        daemon.wait_until("requests.running", be=1)
        waiting.sendall(endless)
        daemon.wait_until("requests.waiting", be=1)
        with pytest.raises(anthropic.RateLimitError) as full:
            claude.messages.create(**body())
        assert kind_of(full.value.response) == (429, "rate_limit_error")
        daemon.signal(signal.SIGTERM)
        daemon.wait_until("status", be="draining")
        with pytest.raises(anthropic.APIStatusError) as stopping:
            claude.messages.create(**body())
        assert kind_of(stopping.value.response) == (503, "overloaded_error")
        for refused in (full, stopping):
            assert int(refused.value.response.headers["retry-after"]) > 0
        last = read_end(running).decode().rstrip().split("data: ")[-1]
        assert daemon.wait() == 0
    error = json.loads(last.partition("\n")[0].rstrip("\r"))
    assert (error["type"], error["error"]["type"]) == ("error", "overloaded_error")
