"""Shares of clients, each a process of its own: one that sends much does not stop the others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.faulty import faulty
from tests.e2e.flood import seeded
from tests.e2e.keys import KEYS, NAMED, PLAIN, bearer
from tests.e2e.wire import completion

PLACES, WAITING = 4, 60
LIMITS = ("--max-running", str(PLACES), "--max-waiting", str(WAITING))
PINGS = 8


@pytest.fixture
def service(llama_path: Path) -> Iterator[Daemon]:
    """A service with few places."""
    with running(llama_path, flags=LIMITS) as daemon:
        yield daemon


@contextmanager
def flooding(daemon: Daemon, requests: int, tokens: int) -> Iterator[subprocess.Popen[str]]:
    """Another process with this many requests, once the first of them streams."""
    words = [daemon.url, str(requests), str(tokens)]
    command = [sys.executable, "-m", "tests.e2e.flood", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "streaming\n"
        try:
            yield process
        finally:
            process.kill()


def ping(daemon: Daemon, **options: Any) -> int:
    """The status of a short request."""
    body = completion(tokens=2)
    return plain_http.post(f"{daemon.url}/v1/completions", json=body, **options).status_code


def answered(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the flood prints at its end."""
    output, _ = process.communicate()
    found: dict[str, Any] = json.loads(output)
    return found


@pytest.mark.long
def test_a_client_is_served_beside_one_with_400_requests_whose_answers_stay_the_same(
    service: Daemon,
) -> None:
    with flooding(service, 400, 150) as process:
        statuses = [ping(service) for _ in range(PINGS)]
        assert process.poll() is None
        assert service.health()["requests"]["waiting"] > 0
        flood = answered(process)
    assert statuses == [200] * PINGS
    texts: dict[str, str] = flood["texts"]
    assert PLACES + WAITING - PINGS <= len(texts) == 400 - flood["refused"]
    for number in sorted(map(int, texts))[: 2 * PLACES]:
        whole = plain_http.post(f"{service.url}/v1/completions", json=seeded(number, 150))
        assert whole.json()["choices"][0]["text"] == texts[str(number)]


def test_a_client_that_is_alone_has_all_places(service: Daemon) -> None:
    with flooding(service, PLACES + WAITING, 30) as process:
        flood = answered(process)
    assert (len(flood["texts"]), flood["refused"]) == (PLACES + WAITING, 0)
    seconds = plain_http.get(f"{service.url}/status").json()["seconds"]
    assert max(second["most_running"] for second in seconds) == PLACES


@pytest.mark.long
def test_keys_are_clients_even_from_one_process(llama_path: Path) -> None:
    with running(llama_path, flags=LIMITS, environ=KEYS) as daemon:
        url = f"{daemon.url}/v1/completions"
        body = {**seeded(1, 2000), "stream": True, "prompt": ["a", "b", "c", "d"] * 8}
        with plain_http.stream("POST", url, json=body, headers=bearer(NAMED)) as flood:
            lines = flood.iter_lines()
            next(lines)
            assert [ping(daemon, headers=bearer(PLAIN)) for _ in range(3)] == [200] * 3


def test_a_client_is_served_while_another_runs_in_all_places_and_none_may_wait(
    llama_path: Path,
) -> None:
    flags = ("--max-running", str(PLACES), "--max-waiting", "0")
    with running(llama_path, flags=flags, environ=KEYS) as daemon:
        url = f"{daemon.url}/v1/completions"
        body = {**seeded(1, 2000), "stream": True, "prompt": list("abcd")}
        with plain_http.stream("POST", url, json=body, headers=bearer(NAMED)) as flood:
            lines = flood.iter_lines()
            begun = set[int]()
            while len(begun) < PLACES:
                if (line := next(lines)).startswith("data: {"):
                    begun.add(json.loads(line.removeprefix("data: "))["choices"][0]["index"])
            assert ping(daemon, headers=bearer(NAMED)) == httpx.codes.TOO_MANY_REQUESTS
            assert [ping(daemon, headers=bearer(PLAIN)) for _ in range(3)] == [200] * 3


def test_another_client_gets_a_connection_while_one_has_them_all() -> None:
    with faulty(*LIMITS, "--max-connections", "20") as daemon, uploading(daemon, 20):
        assert [ping(daemon) for _ in range(3)] == [200] * 3


UPLOADER = """
import socket, sys
port, count = map(int, sys.argv[1:])
head = b"POST /v1/completions HTTP/1.1\\r\\nHost: localhost\\r\\n"
held = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
for each in held:
    each.sendall(head + b"Content-Type: application/json\\r\\nContent-Length: 99\\r\\n\\r\\n{")
print("sent", flush=True)
sys.stdin.read()
"""


@contextmanager
def uploading(daemon: Daemon, connections: int) -> Iterator[None]:
    """Another process with this many requests whose bodies do not arrive."""
    words: Sequence[str] = [sys.executable, "-c", UPLOADER, str(daemon.port), str(connections)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        yield
        process.stdin.close()
