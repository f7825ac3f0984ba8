"""Responses that clients use oddly: items amiss, queries amiss, and requests that cross."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import faulty
from tests.e2e.keys import add_key, bearer

OK, BAD_REQUEST, NOT_FOUND = httpx.codes.OK, httpx.codes.BAD_REQUEST, httpx.codes.NOT_FOUND
USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
CUSTOM = {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "text"}
ITEMS: tuple[dict[str, Any], ...] = (
    {"type": "message", **USER},
    CALL,
    {"type": "function_call_output", "call_id": "c", "output": "done"},
    CUSTOM,
    {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
)
ENDLESS = {"background": True, "max_output_tokens": 100_000, "ignore_eos": True}
DISCONNECTED = '"finish":"client_disconnected"'
TOO_LONG = "9" * 5000
# Only the worker finds that its pattern is none.
BAD_SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}
BAD_FORMAT = {"type": "json_schema", "name": "x", "schema": BAD_SCHEMA}


def ask(http: httpx.Client, **body: Any) -> httpx.Response:
    return http.post("/v1/responses", json={"model": "default", "max_output_tokens": 4, **body})


def create(http: httpx.Client, **body: Any) -> str:
    """The id of a new response."""
    reply = ask(http, **body)
    assert reply.status_code == OK, reply.text
    id: str = reply.json()["id"]
    return id


def replay(item: dict[str, Any]) -> list[dict[str, Any]]:
    """A conversation with the item in its third place, after the calls that it may belong to."""
    calls = [CUSTOM if item["type"].startswith("custom") else CALL]
    return [USER, *calls, item]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["type"])
def test_an_item_without_one_of_its_fields_is_refused_by_the_fields_name(
    http: httpx.Client, item: dict[str, Any]
) -> None:
    assert ask(http, input=replay(item)).status_code == OK
    for field in item.keys() - {"type", "role"}:
        without = {name: value for name, value in item.items() if name != field}
        for wrong in (without, {**item, field: None}, {**item, field: 7}, {**item, field: [7]}):
            reply = ask(http, input=replay(wrong))
            assert reply.status_code == BAD_REQUEST, (wrong, reply.text)
            assert reply.json()["error"]["param"].startswith(f"input[2].{field}")
    named = ask(http, input=replay({**item, "bogus": 1}))
    assert named.status_code == OK
    assert "bogus" in named.headers["x-mlxd-ignored"]


@pytest.mark.parametrize(
    "type", ["web_search_call", "computer_call", "mcp_call", "compaction", "nothing", 7, {}]
)
def test_an_item_of_another_type_is_refused_by_its_type(http: httpx.Client, type: Any) -> None:
    error = ask(http, input=[USER, {"type": type, "id": "x"}]).json()["error"]
    assert error["param"] == "input[1].type"


def test_inputs_that_are_no_conversation_are_refused(http: httpx.Client) -> None:
    values: list[Any] = [3, {}, [[USER]], ["Hi"], [], None, [None]]
    for value in values:
        error = ask(http, input=value).json()["error"]
        assert error["param"].startswith("input")
    for output in ITEMS[2], ITEMS[4]:
        error = ask(http, input=[USER, output]).json()["error"]
        assert error["param"] == "input[1]"
        assert "No tool call found" in error["message"]


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("max_tokens", 4, "max_output_tokens"),
        ("max_completion_tokens", 4, "max_output_tokens"),
        ("messages", [USER], "input"),
        ("reasoning_effort", "low", "reasoning.effort"),
        ("response_format", {"type": "json_object"}, "text.format"),
    ],
)
def test_a_parameter_of_chat_is_refused_with_its_name_here(
    http: httpx.Client, field: str, value: Any, name: str
) -> None:
    error = ask(http, input="Hi", **{field: value}).json()["error"]
    assert error["param"] == field
    assert f"`{field}`" in error["message"]
    assert f"`{name}`" in error["message"]


def test_a_thousand_items_are_kept_and_listed(http: httpx.Client) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 500
    id = create(http, input=[*turns, USER], truncation="auto")
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 100, "order": "asc"}
    while True:
        page = http.get(f"/v1/responses/{id}/input_items", params=query).json()
        seen += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert len(set(seen)) == len(turns) + 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", "0"),
        ("limit", "-1"),
        ("limit", "101"),
        ("limit", "x"),
        ("limit", ""),
        ("limit", TOO_LONG),
        ("order", "up"),
        ("after", "unknown"),
    ],
)
def test_a_page_that_cannot_be_is_refused(http: httpx.Client, field: str, value: str) -> None:
    response, conversation = create(http, input="Hi"), http.post("/v1/conversations", json={})
    paths = (
        f"/v1/responses/{response}/input_items",
        f"/v1/conversations/{conversation.json()['id']}/items",
    )
    for path in paths:
        reply = http.get(path, params={field: value})
        assert reply.status_code == BAD_REQUEST, reply.text
        assert reply.json()["error"]["param"] == field
        assert reply.json()["error"]["code"]


def test_a_query_of_a_response_that_makes_no_sense_is_refused(http: httpx.Client) -> None:
    path = f"/v1/responses/{create(http, input='Hi')}"
    reply = ask(http, input="Hi", background=True, stream=True)
    id = json.loads(reply.text.partition("data: ")[2].partition("\n")[0])["response"]["id"]
    assert http.get(path, params={"stream": "False"}).status_code == OK
    for query, field in (
        ("stream=perhaps", "stream"),
        ("starting_after=1", "starting_after"),
        ("include=everything", "include"),
    ):
        assert http.get(f"{path}?{query}").json()["error"]["param"] == field
    for number in ("-5", "x", "1.5", TOO_LONG):
        query = f"stream=true&starting_after={number}"
        reply = http.get(f"/v1/responses/{id}?{query}")
        assert reply.json()["error"]["param"] == "starting_after"


def test_an_unknown_conversation_is_named_by_its_parameter(http: httpx.Client) -> None:
    for conversation in ("conv_unknown", {"id": "conv_unknown"}):
        reply = ask(http, input="Hi", conversation=conversation)
        assert reply.status_code == NOT_FOUND
        assert reply.json()["error"]["param"] == "conversation"


def test_a_response_that_runs_is_not_gone_on_from(http: httpx.Client) -> None:
    id = create(http, input="Hi", **ENDLESS)
    error = ask(http, input="More", previous_response_id=id).json()["error"]
    assert error["param"] == "previous_response_id"
    assert http.post(f"/v1/responses/{id}/cancel").json()["status"] == "cancelled"
    assert create(http, input="More", previous_response_id=id)


def test_of_many_cancellations_and_deletions_each_is_answered(http: httpx.Client) -> None:
    id = create(http, input="Hi", **ENDLESS)
    with ThreadPoolExecutor(4) as pool:
        cancelled = list(pool.map(http.post, [f"/v1/responses/{id}/cancel"] * 4))
        assert [reply.json()["status"] for reply in cancelled] == ["cancelled"] * 4
        running_id = create(http, input="Hi", **ENDLESS)
        deleted = list(pool.map(http.delete, [f"/v1/responses/{running_id}"] * 4))
    assert sorted(reply.status_code for reply in deleted) == [OK] + [NOT_FOUND] * 3
    assert http.get(f"/v1/responses/{running_id}").status_code == NOT_FOUND


def test_a_stream_that_its_client_cuts_ends_and_leaves_nothing(
    daemon: Daemon, http: httpx.Client
) -> None:
    before = daemon.output.count(DISCONNECTED)
    asked = {"model": "default", "input": "Hi", "stream": True, **ENDLESS, "background": False}
    with (
        plain_http.client(daemon.url) as own,
        own.stream("POST", "/v1/responses", json=asked) as reply,
    ):
        first = next(line for line in reply.iter_lines() if line.startswith("data: "))
    id = json.loads(first[6:])["response"]["id"]
    daemon.wait_for(lambda: daemon.output.count(DISCONNECTED) > before)
    assert http.get(f"/v1/responses/{id}").status_code == NOT_FOUND
    assert ask(http, input="Hi").status_code == OK


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("input", "word " * 9000, "context length"),
        ("text", {"format": BAD_FORMAT}, "`text.format`"),
        ("logit_bias", {"99999999": 1}, "`logit_bias`"),
    ],
)
def test_a_background_response_to_what_cannot_be_served_is_not_to_be_repeated(
    daemon: Daemon, http: httpx.Client, field: str, value: Any, told: str
) -> None:
    asked = {"input": "Hi", field: value}
    for _ in range(2):
        path = f"/v1/responses/{create(http, background=True, **asked)}"
        daemon.wait_for(lambda: http.get(path).json()["status"] == "failed")  # noqa: B023
        error = http.get(path).json()["error"]
        # Clients repeat a request that failed with `server_error`.
        assert error["code"] == "invalid_prompt"
        assert told in error["message"]
    # It kills no worker: the same request is answered as before.
    refused = ask(http, **asked)
    assert refused.status_code == BAD_REQUEST
    assert refused.json()["error"]["code"] != "invalid_prompt"


def test_a_background_response_holds_its_keys_place_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    narrow = add_key(path, "narrow", "--max-concurrent", "1")
    other = add_key(path, "other")
    with (
        faulty("--keys-file", str(path)) as daemon,
        plain_http.client(daemon.url) as http,
    ):
        http.headers.update(bearer(narrow))
        id = create(http, input="Hi", **ENDLESS)
        refused = ask(http, input="Hi")
        assert refused.status_code == httpx.codes.TOO_MANY_REQUESTS
        # What is only read takes no place, and another key has its own.
        assert http.get(f"/v1/responses/{id}").json()["status"] in ("queued", "in_progress")
        with plain_http.client(daemon.url) as theirs:
            theirs.headers.update(bearer(other))
            assert ask(theirs, input="Hi").status_code == OK
            assert theirs.post(f"/v1/responses/{id}/cancel").status_code == NOT_FOUND
        assert http.post(f"/v1/responses/{id}/cancel").json()["status"] == "cancelled"
        daemon.wait_for(lambda: ask(http, input="Hi").status_code == OK)


def test_hosted_tools_are_refused_where_the_operator_says_so() -> None:
    function = {"type": "function", "name": "f"}
    with (
        faulty("--hosted-tools", "refuse") as daemon,
        plain_http.client(daemon.url) as http,
    ):
        assert ask(http, input="Hi", tools=[function]).status_code == OK
        asked = {"model": "default", "input": "Hi", "tools": [function, {"type": "web_search"}]}
        for path in ("/v1/responses", "/v1/responses/input_tokens"):
            reply = http.post(path, json=asked)
            assert reply.status_code == BAD_REQUEST
            assert reply.json()["error"]["code"] == "unsupported_tool"
            assert reply.json()["error"]["param"] == "tools[1].type"
            assert "x-mlxd-left-out" not in reply.headers
