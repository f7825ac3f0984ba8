"""Streams as bytes on the wire, and requests whose client disconnects."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.waiting import HANG_S

LONG_ANSWER_TOKENS = 3000


@pytest.fixture(scope="module")
def own(llama_path: Path) -> Iterator[Daemon]:
    """A service whose counts no other test disturbs; each token's text is sent at once."""
    flags = ["--prefill-step-tokens", "32", "--stream-interval-s", "0"]
    with running(llama_path, flags=flags) as daemon:
        yield daemon


def ask(content: str = "Hello", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": "default", "messages": messages, "temperature": 0, "max_tokens": 16, **more}


def test_a_stream_is_events_of_json_ending_in_done(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json=ask(stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.text.endswith("\n\n")
    events = answer.text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert "usage" not in chunks[0]


def stream_texts(http: httpx.Client) -> tuple[list[str], int]:
    """The texts of a stream's events, and how many tokens they have."""
    asked = ask(stream=True, stream_options={"include_usage": True})
    answer = http.post("/v1/chat/completions", json=asked)
    chunks = [
        json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")
    ]
    texts = [c["choices"][0]["delta"].get("content") for c in chunks if c["choices"]]
    return [text for text in texts if text], chunks[-1]["usage"]["completion_tokens"]


def test_without_an_interval_every_tokens_text_is_an_event_of_its_own(
    own: Daemon, http: httpx.Client
) -> None:
    with plain_http.client(own.url) as client:
        separate, tokens = stream_texts(client)
    # A token may hold back its text (half a character), never bring that of two.
    assert tokens - 4 <= len(separate) <= tokens
    joined, _ = stream_texts(http)
    assert "".join(joined) == "".join(separate)
    assert len(joined) <= len(separate)


def test_the_first_event_comes_before_the_last_token_is_made(own: Daemon) -> None:
    with (
        plain_http.client(own.url) as client,
        client.stream(
            "POST", "/v1/chat/completions", json=ask(stream=True, max_tokens=LONG_ANSWER_TOKENS)
        ) as answer,
    ):
        events = answer.iter_bytes()
        assert next(events)
        assert own.health()["requests"]["running"] == 1
    own.wait_until("requests.running", be=0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_whose_client_leaves_stops(own: Daemon, stream: bool) -> None:
    body = json.dumps(ask(stream=stream, max_tokens=LONG_ANSWER_TOKENS)).encode()
    with connect(own) as connection:
        post(connection, body)
        own.wait_until("requests.running", be=1)
    assert latest_end(own) == "client_disconnected"


def test_a_request_whose_client_leaves_during_its_prompt_stops(own: Daemon) -> None:
    body = json.dumps(ask("word " * 1000, max_tokens=900)).encode()
    with connect(own) as connection:
        post(connection, body)
        own.wait_until("requests.running", be=1)
    assert latest_end(own) == "client_disconnected"


def test_a_request_whose_client_leaves_the_queue_never_runs(llama_path: Path) -> None:
    with running(llama_path, flags=["--max-running", "1"]) as daemon:
        body = json.dumps(ask(max_tokens=LONG_ANSWER_TOKENS)).encode()
        with connect(daemon) as first:
            post(first, body)
            daemon.wait_until("requests.running", be=1)
            with connect(daemon) as second:
                post(second, body)
                daemon.wait_until("requests.waiting", be=1)
            report = daemon.wait_until("requests.waiting", be=0)
            assert report["requests"]["running"] == 1
        daemon.wait_until("requests.running", be=0)


def test_clients_that_leave_at_random_leave_nothing_running(own: Daemon) -> None:
    chance = random.Random(0)
    scopes: list[anyio.CancelScope] = []

    async def come_and_go(client: httpx.AsyncClient, scope: anyio.CancelScope) -> None:
        asked = ask(stream=chance.random() < 0.5, max_tokens=LONG_ANSWER_TOKENS)
        with scope:
            async with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
                async for _ in answer.aiter_bytes():
                    pass

    def have_come() -> bool:
        requests = own.health()["requests"]
        return bool(requests["running"] + requests["waiting"] == len(scopes))

    async def crowd() -> None:
        async with (
            plain_http.async_client(own.url) as client,
            anyio.create_task_group() as clients,
        ):
            for _ in range(40):
                scopes.append(anyio.CancelScope())
                clients.start_soon(come_and_go, client, scopes[-1])
            # A request that has not come when its client leaves is in no record.
            await anyio.to_thread.run_sync(own.wait_for, have_come)
            for scope in scopes:
                scope.deadline = anyio.current_time() + chance.uniform(0.0, 1.0)

    anyio.run(crowd)
    assert all(scope.cancelled_caught for scope in scopes)
    report = own.wait_until("requests.running", be=0)
    assert report["requests"]["waiting"] == 0
    assert report["worker"]["restarts"] == 0
    ends = [request["finish"] for request in recent(own)[:40]]
    assert ends == ["client_disconnected"] * 40


def test_health_answers_while_a_long_prompt_is_prepared(own: Daemon) -> None:
    body = json.dumps(ask("many words " * 100_000)).encode()
    with connect(own) as connection:
        post(connection, body)
        assert own.health()["status"] == "healthy"
        refusal = connection.makefile("rb").read()
    assert b"400 " in refusal.splitlines()[0]
    assert (
        json.loads(refusal.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "context_length_exceeded"
    )


def test_a_silent_stream_shows_that_it_lives(llama_path: Path) -> None:
    flags = ["--keep-alive-s", "0.05", "--prefill-step-tokens", "16"]
    with running(llama_path, flags=flags) as daemon:
        asked = ask("word " * 1000, stream=True, max_tokens=4)
        answer = plain_http.post(f"{daemon.url}/v1/chat/completions", json=asked)
    assert ": keep-alive\n\n" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


def latest_end(daemon: Daemon) -> str:
    """How the latest request ended, once none is on the device."""
    daemon.wait_until("requests.running", be=0)
    end: str = recent(daemon)[0]["finish"]
    return end


def recent(daemon: Daemon) -> list[dict[str, Any]]:
    """The latest requests as `/status` has them, the latest first."""
    requests: list[dict[str, Any]] = plain_http.get(f"{daemon.url}/status").json()["recent"]
    return requests


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=HANG_S)


def post(connection: socket.socket, body: bytes) -> None:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
