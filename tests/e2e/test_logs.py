"""A log that cannot be written stops no request; one that can has a line for each request."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, free_port, running
from tests.waiting import HANG_S, wait_for

REQUESTS = 5
# More than a pipe holds.
MANY_REQUESTS = 600


def requests_of(daemon: Daemon) -> list[dict[str, Any]]:
    """The log's lines that are about requests."""
    lines = [json.loads(line) for line in daemon.lines if line.startswith("{")]
    return [line["request"] for line in lines if "request" in line]


def test_every_request_is_one_line_of_json(llama_path: Path) -> None:
    body = {"model": "default", "prompt": "x", "max_tokens": 5, "temperature": 0}
    with running(llama_path) as daemon, plain_http.client(daemon.url) as client:
        answered = client.post("/v1/completions", json=body)
        client.post("/v1/completions", json=body | {"max_tokens": -1})
        client.get("/v1/models%0a[INFO] FAKE%1b[31m")
        client.get("/health")
        daemon.stop()
        [served, refused, unknown] = requests_of(daemon)
    assert served["id"] == answered.headers["x-request-id"]
    assert (served["model"], served["completion_tokens"]) == ("tiny-llama", 5)
    assert (served["status"], served["finish"]) == (200, "length")
    assert (refused["status"], refused["error"]) == (400, "integer_below_min_value")
    assert unknown["path"] == "/v1/models\\n[INFO] FAKE\\x1b[31m"
    assert "FAKE" not in "".join(line for line in daemon.lines if not line.startswith("{"))


@contextmanager
def started(redirection: str, stdout: IO[bytes] | int | None) -> Iterator[str]:
    """A service started by a shell with this redirection; its URL, once it is healthy."""
    port = free_port()
    command = f'exec "{sys.executable}" -m service serve --port {port} {redirection}'
    process = subprocess.Popen(["/bin/sh", "-c", command], stdout=stdout, stderr=stdout)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: is_healthy(url))
        yield url
        process.terminate()
        assert process.wait(HANG_S) == 0
    finally:
        process.kill()
        process.wait()


def is_healthy(url: str) -> bool:
    with contextlib.suppress(httpx.ConnectError):
        return plain_http.get(f"{url}/health").status_code == 200
    return False


def serve_some(url: str, count: int = REQUESTS) -> None:
    with plain_http.client(url) as client:
        for number in range(count):
            assert client.get(f"/v1/models/{number}-{'x' * 150}").status_code == 404
        body = {"model": "default", "prompt": "x", "max_tokens": 5, "temperature": 0}
        assert client.post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    "redirection",
    [
        pytest.param("2>&-", marks=pytest.mark.long),
        pytest.param(">&- 2>&-", marks=pytest.mark.long),
        "<&- >&- 2>&-",
    ],
)
def test_closed_standard_streams_stop_nothing(redirection: str) -> None:
    with started(redirection, subprocess.DEVNULL) as url:
        serve_some(url)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_stops_nothing() -> None:
    with started(">/dev/full 2>&1", None) as url:
        serve_some(url)


@pytest.mark.long
def test_a_log_that_nobody_reads_stops_nothing() -> None:
    reading, writing = os.pipe()
    try:
        with started("--log-level debug", writing) as url:
            os.close(writing)
            serve_some(url, MANY_REQUESTS)
    finally:
        os.close(reading)
