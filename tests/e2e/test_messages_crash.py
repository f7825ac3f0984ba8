"""Messages while workers die: a pause, or a refusal of the request that kills them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.fakes.worker import answer

TOKENS = 12


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    source = tmp_path_factory.mktemp("models") / "fake"
    with running(
        str(source),
        flags=["--keep-alive-s", "0.2", "--stall-s", "10"],
        program="tests.fakes.service",
    ) as daemon:
        yield daemon


def ask(daemon: Daemon, content: str, **fields: Any) -> httpx.Response:
    message = {"role": "user", "content": content}
    body = {"model": "default", "max_tokens": TOKENS, "messages": [message], **fields}
    return plain_http.post(f"{daemon.url}/v1/messages", json=body)


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    lines = response.text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event.get("delta", {}).get("text", "") for event in events)


@pytest.mark.parametrize("stream", [False, True])
def test_a_crash_in_mid_answer_is_a_pause(faulty: Daemon, stream: bool) -> None:
    question = f"stream {stream} [die 5]"
    response = ask(faulty, question, stream=stream)
    if stream:
        events = events_of(response)
        assert events[-1]["type"] == "message_stop"
        assert [event["index"] for event in events if "index" in event] == [0] * (TOKENS + 2)
        text = text_of(events)
    else:
        text = response.json()["content"][0]["text"]
    assert text == answer(question, TOKENS)


def test_a_request_that_kills_workers_is_refused_when_it_is_asked_without_a_stream(
    faulty: Daemon,
) -> None:
    question = "kills [die 3 always]"
    events = events_of(ask(faulty, question, stream=True))
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    faulty.wait_for(lambda: faulty.health()["status"] == "healthy")
    restarts = faulty.health()["worker"]["restarts"]
    again = ask(faulty, question, max_tokens=TOKENS - 1, metadata={"user_id": "u"})
    assert again.status_code == 400
    assert again.json()["error"]["type"] == "invalid_request_error"
    assert faulty.health()["worker"]["restarts"] == restarts
    assert ask(faulty, "another").status_code == 200


@pytest.mark.long
def test_a_silent_worker_is_bridged_by_pings(faulty: Daemon) -> None:
    events = events_of(ask(faulty, "silent [slow 4]", stream=True))
    kinds = [event["type"] for event in events]
    assert kinds.count("ping") > 1
    assert text_of(events) == answer("silent [slow 4]", TOKENS)
