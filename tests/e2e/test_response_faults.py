"""Responses while workers die: a pause, a request that is blamed once, and signs of life."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import faulty
from tests.e2e.keys import ADMIN, KEYS, NAMED, bearer
from tests.e2e.mortal import mortal
from tests.fakes.worker import answer

OK = httpx.codes.OK
DELTA = "response.output_text.delta"


@pytest.fixture(scope="module")
def service() -> Iterator[Daemon]:
    """A service of the fake worker, with keys, that sends signs of life often."""
    with faulty("--keep-alive-s", "0.05", environ=KEYS) as daemon:
        yield daemon


@pytest.fixture
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        client.headers.update(bearer(NAMED))
        yield client


def body(prompt: str, **changed: Any) -> dict[str, Any]:
    return {"model": "fake", "input": prompt, "max_output_tokens": 40, "stream": True, **changed}


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a stream, whose numbers have no gap."""
    events = parse(text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def parse(text: str) -> list[dict[str, Any]]:
    """The events of a stream, or of its end."""
    return [json.loads(part.partition("data: ")[2]) for part in text.strip().split("\n\n")]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == DELTA)


def test_a_workers_death_in_a_stream_is_a_pause(http: httpx.Client) -> None:
    events = events_of(http.post("/v1/responses", json=body("[die 9]")).text)
    assert text_of(events) == answer("[die 9]", 40)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == text_of(events)


@pytest.mark.long
def test_a_killed_worker_of_a_real_model_leaves_the_text_the_same(llama_path: Path) -> None:
    asked = {
        "model": "default",
        "input": "Go on",
        "temperature": 0,
        "ignore_eos": True,
        "max_output_tokens": 300,
        "stream": True,
    }
    with mortal(llama_path) as dying:
        url = f"{dying.daemon.url}/v1/responses"
        whole = events_of(plain_http.post(url, json=asked).text)
        dying.end_after(100)
        events = events_of(plain_http.post(url, json=asked).text)
        assert dying.restarts() == 1
    assert text_of(events) == text_of(whole)
    assert len(text_of(whole)) > 100


def test_a_background_response_survives_the_workers_death(http: httpx.Client) -> None:
    made = http.post("/v1/responses", json=body("[die 7] b", background=True)).text
    events = events_of(made)
    assert text_of(events) == answer("[die 7] b", 40)
    path = f"/v1/responses/{events[0]['response']['id']}"
    assert http.get(path).json() == events[-1]["response"]
    for number in range(-1, len(events) - 1):
        again = http.get(path, params={"stream": "true", "starting_after": number}).text
        assert parse(again) == events[number + 1 :]


def test_a_background_response_is_replayed_while_its_worker_is_dead(http: httpx.Client) -> None:
    asked = body("[die 20] live", background=True, max_output_tokens=200)
    with http.stream("POST", "/v1/responses", json=asked) as reply:
        first = next(line for line in reply.iter_lines() if line.startswith("data: "))
    path = f"/v1/responses/{json.loads(first[6:])['response']['id']}"
    followed = parse(http.get(path, params={"stream": "true", "starting_after": 0}).text)
    assert [event["sequence_number"] for event in followed] == list(range(1, len(followed) + 1))
    assert text_of(followed) == answer("[die 20] live", 200)


def test_a_background_response_that_kills_workers_is_replayed_to_its_failure(
    http: httpx.Client,
) -> None:
    made = http.post("/v1/responses", json=body("[die 5 always] bg", background=True)).text
    events = events_of(made)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "invalid_prompt"
    path = f"/v1/responses/{events[0]['response']['id']}"
    for number in (-1, 1, len(events) - 2):
        again = http.get(path, params={"stream": "true", "starting_after": number}).text
        assert parse(again) == events[number + 1 :]
    assert http.get(path).json()["status"] == "failed"


def test_a_request_that_kills_workers_fails_as_an_invalid_prompt_and_is_refused_again(
    http: httpx.Client,
) -> None:
    poison = body("[die 5 always] stream")
    events = events_of(http.post("/v1/responses", json=poison).text)
    failed = events[-1]
    assert failed["type"] == "response.failed"
    response = failed["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "invalid_prompt")
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == text_of(events) != ""
    assert not [event for event in events if event["type"].endswith(".done")]
    assert http.get(f"/v1/responses/{response['id']}").json() == response
    # Served by the next worker.
    sound = body("[die 999 always] stream")
    assert http.post("/v1/responses", json=sound).status_code == OK
    restarts = http.get("/health").json()["worker"]["restarts"]
    again = http.post("/v1/responses", json=poison)
    assert again.status_code == httpx.codes.BAD_REQUEST
    assert again.json()["error"]["code"] == "invalid_prompt"
    assert http.post("/v1/responses", json=sound).status_code == OK
    assert http.get("/health").json()["worker"]["restarts"] == restarts


def test_a_whole_request_that_kills_workers_is_refused_again_of_its_owner_alone(
    service: Daemon, http: httpx.Client
) -> None:
    poison = body("[die 5 always] whole", stream=False)
    first = http.post("/v1/responses", json=poison)
    assert (first.status_code, first.json()["error"]["code"]) == (500, "worker_crashed")
    again = http.post("/v1/responses", json=poison)
    assert (again.status_code, again.json()["error"]["code"]) == (400, "invalid_prompt")
    with plain_http.client(service.url) as other:
        other.headers.update(bearer(ADMIN))
        theirs = other.post("/v1/responses", json=poison)
    assert theirs.json()["error"]["code"] == "worker_crashed"


@pytest.mark.long
def test_a_silent_answer_shows_signs_of_life_that_are_numbered(http: httpx.Client) -> None:
    events = events_of(http.post("/v1/responses", json=body("[slow 3]")).text)
    lives = [event for event in events if event["type"] == "response.in_progress"]
    assert len(lives) > 2
    assert text_of(events) == answer("[slow 3]", 40)
