"""Responses in a file, after the service was killed: read, gone on from, or failed if they ran."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import faulty
from tests.fakes.worker import answer

OK, NOT_FOUND = httpx.codes.OK, httpx.codes.NOT_FOUND
BAD_REQUEST = httpx.codes.BAD_REQUEST


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    key = tmp_path / "state" / "installation.key"
    store = tmp_path / "state" / "responses.db"
    return ["--response-store", str(store), "--installation-key-file", str(key)]


def respond(daemon: Daemon, prompt: str, **more: Any) -> dict[str, Any]:
    """A response of a few tokens, unless `more` says otherwise."""
    body = {"model": "fake", "input": prompt, "max_output_tokens": 5, **more}
    with plain_http.client(daemon.url) as http:
        reply = http.post("/v1/responses", json=body)
    assert reply.status_code == OK, reply.text
    found: dict[str, Any] = reply.json()
    return found


def read(daemon: Daemon, path: str) -> dict[str, Any]:
    """What a route of the responses or conversations answers."""
    with plain_http.client(daemon.url) as http:
        reply = http.get(f"/v1/{path}")
    found: dict[str, Any] = reply.json()
    return {"http_status": reply.status_code, **found}


def begin_stream(daemon: Daemon, prompt: str) -> str:
    """The id of a background response with events, once it has ended."""
    body = {"model": "fake", "input": prompt, "max_output_tokens": 5}
    asked = {**body, "background": True, "stream": True}
    with plain_http.client(daemon.url) as http:
        events = read_events(http.post("/v1/responses", json=asked).text)
    assert events[-1]["type"] == "response.incomplete"
    id: str = events[0]["response"]["id"]
    return id


def read_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream."""
    return [json.loads(part.partition("data: ")[2]) for part in text.strip().split("\n\n")]


def starts(flags: list[str], count: int) -> Iterator[Daemon]:
    """Services on one file, one after the other, each killed."""
    for _ in range(count):
        with faulty(*flags) as daemon:
            yield daemon
            daemon.signal(signal.SIGKILL)
            daemon.wait()


def test_what_is_kept_in_a_file_outlives_a_killed_service(flags: list[str]) -> None:
    services = starts(flags, 2)
    daemon = next(services)
    first = respond(daemon, "one")
    second = respond(daemon, "two", previous_response_id=first["id"])
    plain_http.request("DELETE", f"{daemon.url}/v1/responses/{first['id']}")
    with plain_http.client(daemon.url) as http:
        conversation = http.post("/v1/conversations", json={"metadata": {"a": "b"}}).json()
    respond(daemon, "three", conversation=conversation["id"])
    items = read(daemon, f"conversations/{conversation['id']}/items")
    streamed = begin_stream(daemon, "streamed")
    ran = respond(daemon, "[slow 2]", background=True)
    daemon.wait_for(lambda: read(daemon, f"responses/{ran['id']}")["status"] == "in_progress")

    daemon = next(services)
    assert read(daemon, f"responses/{second['id']}") == {"http_status": OK, **second}
    assert read(daemon, f"responses/{first['id']}")["http_status"] == NOT_FOUND
    inputs = read(daemon, f"responses/{second['id']}/input_items")["data"]
    assert [item["role"] for item in inputs] == ["user", "assistant", "user"]
    respond(daemon, "four", previous_response_id=second["id"])
    assert read(daemon, f"conversations/{conversation['id']}")["metadata"] == {"a": "b"}
    assert read(daemon, f"conversations/{conversation['id']}/items") == items
    failed = read(daemon, f"responses/{ran['id']}")
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": "server_error", "message": "The service was restarted."}
    for id in (ran["id"], streamed):
        for query in (
            "stream=true",
            "stream=true&starting_after=0",
            "stream=true&starting_after=9",
        ):
            refused = read(daemon, f"responses/{id}?{query}")
            assert refused["http_status"] == BAD_REQUEST
            assert refused["error"]["code"] == "events_not_kept"
            assert "restarted" in refused["error"]["message"]
    whole = read(daemon, f"responses/{streamed}")
    assert whole["status"] == "incomplete"
    assert whole["output"][0]["content"][0]["text"] == answer("streamed", 5)
    assert next(services, None) is None
