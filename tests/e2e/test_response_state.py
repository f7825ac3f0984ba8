"""Responses that are kept: gone on from, read, deleted, made in the background and replayed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.keys import ADMIN, KEYS, NAMED, bearer
from tests.models import staged
from tests.models.staged import CHATML, Staged
from tests.waiting import wait_for

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALLS = Staged(
    CALL,
    template="{# <tool_call> tool_call.name tools #}" + CHATML,
    added=("<tool_call>", "</tool_call>"),
)
OK = httpx.codes.OK
OPERATIONS = [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, llama_path: Path) -> Iterator[Daemon]:
    """A service of a tiny model, and of one that calls."""
    calls = staged.make(CALLS, tmp_path_factory.mktemp("staged") / "calls")
    with running(llama_path, calls) as daemon:
        yield daemon


@pytest.fixture
def api(service: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        yield client


def create(http: httpx.Client, **body: Any) -> dict[str, Any]:
    """A response to a short request."""
    asked = {"model": "default", "temperature": 0, "max_output_tokens": 20, "seed": 1, **body}
    reply = http.post("/v1/responses", json=asked)
    assert reply.status_code == OK, reply.text
    found: dict[str, Any] = reply.json()
    return found


def strip(value: Any) -> Any:
    """The value without ids, times and timings."""
    dropped = {"id", "created_at", "completed_at", "mlxd", "cached_tokens", "previous_response_id"}
    if isinstance(value, dict):
        return {key: strip(each) for key, each in value.items() if key not in dropped}
    return [strip(each) for each in value] if isinstance(value, list) else value


def test_three_turns_by_id_are_the_conversation_by_hand(http: httpx.Client) -> None:
    tools = {"tools": [TOOL], "model": "calls", "max_output_tokens": 200}
    first = create(http, input="Weather?", **tools)
    call = first["output"][-1]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny"}
    second = create(http, input=[result], previous_response_id=first["id"], **tools)
    third = create(http, input="And now?", previous_response_id=second["id"], **tools)
    items = [
        {"role": "user", "content": "Weather?"},
        *first["output"],
        result,
        *second["output"],
        {"role": "user", "content": "And now?"},
    ]
    by_hand = create(http, input=items, **tools)
    assert third["usage"]["input_tokens"] == by_hand["usage"]["input_tokens"]
    assert third["usage"]["input_tokens_details"]["cached_tokens"] > 0
    assert strip(third["output"][0]["arguments"]) == strip(by_hand["output"][0]["arguments"])


def test_a_turn_by_id_finds_its_prefix_in_the_prompt_cache(http: httpx.Client) -> None:
    first = create(http, input="Tell me of the sea, " * 30)
    second = create(http, input="More", previous_response_id=first["id"])
    cached = second["usage"]["input_tokens_details"]["cached_tokens"]
    assert cached > first["usage"]["input_tokens"] // 2


def test_a_response_can_be_read_and_deleted(api: openai.OpenAI) -> None:
    one = api.responses.create(model="default", input="One", max_output_tokens=5, temperature=0)
    two = api.responses.create(
        model="default", input="Two", max_output_tokens=5, previous_response_id=one.id
    )
    assert strip(api.responses.retrieve(one.id).to_dict()) == strip(one.to_dict())
    items = api.responses.input_items.list(two.id, order="asc", limit=100).data
    assert [item.type for item in items] == ["message"] * 3
    assert all(item.id and isinstance(item.content, list) for item in items)  # type: ignore[union-attr]
    page = api.responses.input_items.list(two.id, limit=2)
    assert [item.id for item in page.data] == [items[2].id, items[1].id]
    assert page.has_more
    rest = api.responses.input_items.list(two.id, after=items[1].id or "")
    assert [item.id for item in rest.data] == [items[0].id]
    api.responses.delete(one.id)
    with pytest.raises(openai.NotFoundError):
        api.responses.retrieve(one.id)
    three = api.responses.create(
        model="default", input="Three", max_output_tokens=5, previous_response_id=two.id
    )
    assert len(api.responses.input_items.list(three.id).data) == 5


def test_a_response_that_is_not_stored_leaves_nothing(http: httpx.Client) -> None:
    made = create(http, input="Hi", store=False)
    assert made["store"] is False
    gone = http.get(f"/v1/responses/{made['id']}")
    assert gone.status_code == httpx.codes.NOT_FOUND
    body = {"model": "default", "input": "Hi", "previous_response_id": made["id"]}
    refused = http.post("/v1/responses", json=body)
    assert refused.status_code == httpx.codes.BAD_REQUEST
    assert refused.json()["error"]["code"] == "previous_response_not_found"
    assert refused.json()["error"]["param"] == "previous_response_id"


def test_without_a_store_responses_say_so(llama_path: Path) -> None:
    with (
        running(llama_path, flags=["--response-store", "off"]) as daemon,
        plain_http.client(daemon.url) as http,
    ):
        assert create(http, input="Hi")["store"] is False
        for field in ("store", "background"):
            body = {"model": "default", "input": "Hi", field: True}
            assert http.post("/v1/responses", json=body).json()["error"]["param"] == field


def test_a_streamed_response_can_be_read_once_it_has_ended(http: httpx.Client) -> None:
    body = {"model": "default", "input": "Hi", "max_output_tokens": 5, "stream": True}
    events = read_events(http.post("/v1/responses", json=body).text)
    final = events[-1]["response"]
    assert http.get(f"/v1/responses/{final['id']}").json() == final


def test_the_counted_tokens_are_those_of_the_response(http: httpx.Client) -> None:
    first = create(http, model="calls", input="Weather?", tools=[TOOL], max_output_tokens=200)
    result = {
        "type": "function_call_output",
        "call_id": first["output"][-1]["call_id"],
        "output": "Sunny",
    }
    asked: dict[str, Any] = {
        "model": "calls",
        "input": [result],
        "instructions": "Be brief.",
        "tools": [TOOL],
        "previous_response_id": first["id"],
    }
    reply = http.post("/v1/responses/input_tokens", json=asked)
    assert reply.json()["object"] == "response.input_tokens"
    used = create(http, **asked)["usage"]["input_tokens"]
    assert reply.json()["input_tokens"] == used


def read_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream."""
    return [json.loads(part.partition("data: ")[2]) for part in text.strip().split("\n\n")]


def test_a_background_response_waits_runs_and_ends(api: openai.OpenAI) -> None:
    made = api.responses.create(
        model="default", input="Hi", background=True, max_output_tokens=20, temperature=0
    )
    assert made.status == "queued"
    assert made.background
    seen = set()

    def has_ended() -> bool:
        status = api.responses.retrieve(made.id).status
        seen.add(status)
        return status not in ("queued", "in_progress")

    wait_for(has_ended, lambda: f"seen {seen}")
    ended = api.responses.retrieve(made.id)
    assert ended.status in ("completed", "incomplete")
    whole = api.responses.create(model="default", input="Hi", max_output_tokens=20, temperature=0)
    assert ended.output_text == whole.output_text
    assert strip(api.responses.cancel(made.id).to_dict()) == strip(ended.to_dict())


def test_a_background_stream_is_replayed_from_any_number(http: httpx.Client) -> None:
    body = {"model": "default", "input": "Hi", "background": True, "stream": True}
    text = http.post("/v1/responses", json={**body, "max_output_tokens": 10}).text
    events = read_events(text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    path = f"/v1/responses/{events[0]['response']['id']}"
    for number in (-1, 0, 3, len(events) - 2):
        query: dict[str, Any] = {"stream": "true", "starting_after": number}
        assert read_events(http.get(path, params=query).text) == events[number + 1 :]
    assert http.get(path).json() == events[-1]["response"]


def test_a_background_response_goes_on_without_its_client(service: Daemon) -> None:
    body = {"model": "default", "input": "Hi", "background": True, "stream": True}
    with plain_http.client(service.url) as http:
        asked = {**body, "max_output_tokens": 400}
        with http.stream("POST", "/v1/responses", json=asked) as reply:
            first = next(line for line in reply.iter_lines() if line.startswith("data: "))
        id = json.loads(first[6:])["response"]["id"]
        query: dict[str, Any] = {"stream": "true", "starting_after": 0}
        events = read_events(http.get(f"/v1/responses/{id}", params=query).text)
        assert events[-1]["type"] in ("response.completed", "response.incomplete")
        assert [e["sequence_number"] for e in events] == list(range(1, len(events) + 1))


def test_a_background_response_can_be_cancelled_without_a_body(http: httpx.Client) -> None:
    made = create(http, input="Hi", background=True, max_output_tokens=100_000, ignore_eos=True)
    path = f"/v1/responses/{made['id']}"
    cancelled = http.post(f"{path}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert http.post(f"{path}/cancel").json() == cancelled.json()
    page = {"origin": "https://elsewhere.example", "sec-fetch-site": "cross-site"}
    refused = http.post(f"{path}/cancel", headers=page)
    assert refused.status_code == httpx.codes.FORBIDDEN
    assert http.delete(path).json() == {"id": made["id"], "object": "response", "deleted": True}
    assert http.get(path).status_code == httpx.codes.NOT_FOUND


def test_only_background_responses_are_cancelled_and_replayed(http: httpx.Client) -> None:
    path = f"/v1/responses/{create(http, input='Hi')['id']}"
    assert http.post(f"{path}/cancel").status_code == httpx.codes.BAD_REQUEST
    assert http.get(path, params={"stream": "true"}).json()["error"]["param"] == "stream"


def test_one_keys_responses_are_unknown_to_another(llama_path: Path) -> None:
    with (
        running(llama_path, environ=KEYS) as daemon,
        plain_http.client(daemon.url) as a,
        plain_http.client(daemon.url) as b,
    ):
        a.headers.update(bearer(NAMED))
        b.headers.update(bearer(ADMIN))
        id = create(a, input="Hi")["id"]
        unknown = "resp_" + "0" * 32
        for method, path in OPERATIONS:
            theirs = b.request(method, f"/v1/responses/{id}{path}")
            nobodys = b.request(method, f"/v1/responses/{unknown}{path}")
            assert theirs.status_code == nobodys.status_code == httpx.codes.NOT_FOUND
            assert theirs.text.replace(id, unknown) == nobodys.text
        asked = {"model": "default", "input": "x"}
        texts = [
            b.post("/v1/responses", json={**asked, "previous_response_id": each}).text
            for each in (id, unknown)
        ]
        assert texts[0].replace(id, unknown) == texts[1]
        assert a.get(f"/v1/responses/{id}").status_code == OK
