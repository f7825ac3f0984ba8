"""Keys in the headers of requests are shown nowhere: no log, span, metric, page or answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.e2e.collector import collecting
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import faulty
from tests.e2e.keys import ADMIN, KEYS, NAMED, PLAIN
from tests.e2e.wire import connect, read_end

UNKNOWN = "unknown-secret-of-a-client"
# As clients send them, and as they should not.
CARRIERS = {
    "bearer": "Authorization: Bearer {}",
    "api key": "X-Api-Key: {}",
    "basic": "Authorization: Basic {}",
    "two of one name": "x-api-key: {0}\r\nx-api-key: {0}",
    "both": "authorization: Bearer {0}\r\nx-api-key: {0}",
    "proxy": "Proxy-Authorization: Bearer {}",
    "no colon": "x-api-key {}",
    "no colon before a scheme": "Authorization Bearer {}",
    "a control character": "x-api-key: {}\x00",
    "folded": "authorization: Bearer\r\n {}\x01",
    "large": "authorization: Bearer {}" + "x" * 40_000,
    "medium": "x-api-key: {}" + "x" * 20_000,
}
MESSAGE = [{"role": "user", "content": "hello"}]
REQUESTS = [
    ("GET", "/health", None),
    ("GET", "/v1/models", None),
    ("GET", "/nowhere", None),
    ("PUT", "/v1/messages", None),
    ("OPTIONS", "/v1/messages", None),
    ("POST", "/v1/responses/resp_1/cancel", None),
    ("POST", "/v1/chat/completions", {"model": "fake", "messages": 1}),
    ("POST", "/v1/messages", {"model": "none", "max_tokens": 1, "messages": MESSAGE}),
    ("POST", "/v1/responses", {"model": "fake", "input": "x", "max_output_tokens": 2}),
    ("POST", "/v1/messages", {"model": "fake", "max_tokens": 2, "messages": MESSAGE}),
    ("POST", "/v1/completions", {"model": "fake", "prompt": "[fail 1]", "stream": True}),
]


class Told(NamedTuple):
    """All that a service said: its answers by carrier, its output, and what it exported."""

    answers: dict[str, bytes]
    output: str
    exported: bytes


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    """What a service said that logs and traces all it can, headers too."""
    everything = {
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": ".*",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE": ".*",
        "PYTHONASYNCIODEBUG": "1",
    }
    with collecting() as collector:
        environ = {**KEYS, **everything, **collector.environ}
        with faulty("--log-level", "debug", environ=environ) as daemon:
            answers = {name: ask_all(daemon, name) for name in CARRIERS}
            daemon.stop()
        yield Told(answers, daemon.output, collector.raw)


def ask_all(daemon: Daemon, carrier: str) -> bytes:
    """What is answered to every request, with a key of each kind in this header."""
    answers = b""
    for key in (NAMED, ADMIN, UNKNOWN):
        for method, path, body in REQUESTS:
            data = b"" if body is None else json.dumps(body).encode()
            lines = [
                f"{method} {path} HTTP/1.1",
                "Host: localhost",
                "Connection: close",
                "Anthropic-Version: 2023-06-01",
                CARRIERS[carrier].format(key),
            ]
            if body is not None:
                lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
            with connect(daemon) as client:
                client.sendall("\r\n".join([*lines, "", ""]).encode() + data)
                answers += read_end(client)
    return answers


@pytest.mark.parametrize("carrier", CARRIERS)
def test_no_answer_shows_a_key(told: Told, carrier: str) -> None:
    answers = told.answers[carrier]
    assert answers.count(b"HTTP/1.1 ") >= len(REQUESTS)
    assert not [key for key in (NAMED, ADMIN, UNKNOWN) if key.encode() in answers]


def test_no_log_shows_a_key(told: Told) -> None:
    assert '"path":"/v1/messages"' in told.output.replace(": ", ":")
    assert not [key for key in (PLAIN, NAMED, ADMIN, UNKNOWN) if key in told.output]


def test_spans_have_headers_but_no_key(told: Told) -> None:
    assert b"http.request.header.anthropic_version" in told.exported
    assert b"[REDACTED]" in told.exported
    assert not [key for key in (PLAIN, NAMED, ADMIN, UNKNOWN) if key.encode() in told.exported]
