"""/v1/responses as the `openai` package uses it: the built-in model, tiny ones and staged ones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.models import staged
from tests.models.staged import CHATML, Staged

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
JSON_IN_TAGS = "{# <tool_call> tool_call.name tools #}" + CHATML
TAGS = ("<tool_call>", "</tool_call>")
THINK = ("<think>", "</think>")


def calling(name: str, arguments: dict[str, Any], before: str = "") -> Staged:
    """A model that makes one call."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return Staged(f"{before}<tool_call>\n{call}\n</tool_call>", template=JSON_IN_TAGS, added=TAGS)


STAGED = {
    "plain": Staged("Hello, I am staged. 日本語 and 😀.\n\nIt says this twice, twice."),
    "calls": calling("get_weather", {"city": "Paris"}, before="I look.\n"),
    "namespaced": calling("crew.close", {"id": "a1"}),
    "custom": calling("note", {"input": 'Say "hi" \n and 😀 é'}),
    "thinks": Staged(
        "<think>\nIt greets me.\n</think>\n\nHello to you.",
        template="{# <think> </think> #}" + CHATML,
        added=THINK,
    ),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service of all staged models."""
    folder = tmp_path_factory.mktemp("staged")
    paths = [staged.make(model, folder / name) for name, model in STAGED.items()]
    with running(*paths, flags=["--keep-alive-s", "600"]) as daemon:
        yield daemon


@pytest.fixture
def api(service: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        yield client


def events_of(http: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream; each has its name twice, and the numbers have no gap."""
    reply = http.post("/v1/responses", json={"temperature": 0, "stream": True, **body})
    assert reply.status_code == httpx.codes.OK, reply.text
    events = []
    for frame in reply.text.strip().split("\n\n"):
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The types of the events without `response.`; repeated ones once."""
    names = (event["type"].removeprefix("response.") for event in events)
    return [name for name, _ in itertools.groupby(names)]


def same(response: Any) -> Any:
    """The response without what differs each time: ids, times and timings."""
    dropped = (
        "id",
        "call_id",
        "created_at",
        "completed_at",
        "mlxd",
        "cached_tokens",
        "parsed",
        "parsed_arguments",
    )
    if isinstance(response, dict):
        return {k: same(v) for k, v in response.items() if k not in dropped}
    return [same(each) for each in response] if isinstance(response, list) else response


TEXT = ["output_text.delta", "output_text.done", "content_part.done", "output_item.done"]
OPEN = ["output_item.added", "content_part.added"]
BEGIN = ["created", "in_progress"]


def test_a_response_has_text_and_usage_that_sums(demo: Daemon) -> None:
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as api:
        response = api.responses.create(model="default", input="Hello", max_output_tokens=200)
    usage = response.usage
    assert usage is not None
    assert response.output_text
    assert response.status == "completed"
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.cached_tokens >= 0
    assert usage.output_tokens_details.reasoning_tokens == 0


def test_a_streams_events_are_in_order_and_its_text_is_the_final_one(http: httpx.Client) -> None:
    events = events_of(http, model="plain", input="Hi")
    assert kinds(events) == [*BEGIN, *OPEN, *TEXT, "completed"]
    [message] = events[-1]["response"]["output"]
    text = message["content"][0]["text"]
    assert text == STAGED["plain"].says
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(e["delta"] for e in deltas) == text
    assert {e["item_id"] for e in events if "item_id" in e} == {message["id"]}
    assert {e["response"]["id"] for e in events if "response" in e} == {events[0]["response"]["id"]}
    assert events[0]["response"]["output"] == []


@pytest.mark.parametrize("model", STAGED)
def test_a_streams_final_response_is_the_whole_one(api: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "input": "Hi", "temperature": 0}
    if model in ("calls", "namespaced", "custom"):
        asked["tools"] = TOOLS
    whole = api.responses.create(**asked)
    with api.responses.stream(**asked) as stream:
        final = stream.get_final_response()
    assert same(final.to_dict()["output"]) == same(whole.to_dict()["output"])
    assert final.status == whole.status == "completed"


TOOLS: list[dict[str, Any]] = [
    TOOL,
    {
        "type": "namespace",
        "name": "crew",
        "description": "The crew",
        "tools": [{"type": "function", "name": "close", "parameters": {"type": "object"}}],
    },
    {"type": "custom", "name": "note", "description": "Take a note"},
    {"type": "web_search", "user_location": {"type": "approximate", "city": "Paris"}},
]


def test_a_call_is_an_item_whose_deltas_join_to_its_arguments(http: httpx.Client) -> None:
    events = events_of(http, model="calls", input="Weather?", tools=TOOLS)
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done"]
    assert kinds(events) == [*BEGIN, *OPEN, *TEXT, *call, "output_item.done", "completed"]
    message, item = events[-1]["response"]["output"]
    assert message["content"][0]["text"].strip() == "I look."
    assert (item["name"], json.loads(item["arguments"])) == ("get_weather", {"city": "Paris"})
    assert item["call_id"].startswith("call_")
    assert item["id"].startswith("fc_")
    assert "namespace" not in item
    deltas = [e for e in events if e["type"] == "response.function_call_arguments.delta"]
    assert "".join(e["delta"] for e in deltas) == item["arguments"]
    assert {e["item_id"] for e in deltas} == {item["id"]}
    assert {e["output_index"] for e in deltas} == {1}


def test_a_call_of_a_namespace_has_namespace_and_name_apart(http: httpx.Client) -> None:
    events = events_of(http, model="namespaced", input="Close it", tools=TOOLS)
    [item] = events[-1]["response"]["output"]
    assert (item["namespace"], item["name"]) == ("crew", "close")
    [added] = [e["item"] for e in events if e["type"] == "response.output_item.added"]
    assert (added["namespace"], added["name"], added["arguments"]) == ("crew", "close", "")


def test_a_custom_call_has_its_text(http: httpx.Client) -> None:
    events = events_of(http, model="custom", input="Note", tools=TOOLS)
    [item] = events[-1]["response"]["output"]
    assert item["type"] == "custom_tool_call"
    assert item["input"] == 'Say "hi" \n and 😀 é'
    deltas = [e for e in events if e["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(e["delta"] for e in deltas) == item["input"]
    [done] = [e for e in events if e["type"] == "response.custom_tool_call_input.done"]
    assert done["input"] == item["input"]


def test_hosted_tools_are_left_out_and_it_is_said(http: httpx.Client) -> None:
    body = {"model": "calls", "input": "Weather?", "tools": TOOLS, "temperature": 0}
    reply = http.post("/v1/responses", json=body)
    assert reply.headers["x-mlxd-left-out"] == "tools[3]"
    shown = reply.json()["tools"]
    assert [tool["type"] for tool in shown] == ["function", "namespace", "custom"]
    refused = http.post("/v1/responses", json={**body, "tool_choice": {"type": "web_search"}})
    assert refused.status_code == httpx.codes.BAD_REQUEST
    assert refused.json()["error"]["code"] == "unsupported_tool"


def test_reasoning_is_an_item_before_the_message(http: httpx.Client) -> None:
    events = events_of(http, model="thinks", input="Hi")
    reasoning = ["reasoning_text.delta", "reasoning_text.done", "content_part.done"]
    assert kinds(events) == [
        *BEGIN, *OPEN, *reasoning, "output_item.done", *OPEN, *TEXT, "completed",
    ]  # fmt: skip
    thought, message = events[-1]["response"]["output"]
    assert thought["content"][0]["text"].strip() == "It greets me."
    assert thought["summary"] == []
    assert message["content"][0]["text"] == "Hello to you."
    usage = events[-1]["response"]["usage"]
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]


def test_a_summary_is_the_reasoning_instead_of_its_text(http: httpx.Client) -> None:
    events = events_of(http, model="thinks", input="Hi", reasoning={"summary": "auto"})
    assert [kind for kind in kinds(events) if "reasoning" in kind] == [
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]
    thought, _ = events[-1]["response"]["output"]
    assert thought["content"] == []
    assert thought["summary"][0]["text"].strip() == "It greets me."


@pytest.mark.parametrize("model", ["plain", "calls", "thinks"])
def test_an_answer_that_the_limit_cuts_is_incomplete(http: httpx.Client, model: str) -> None:
    events = events_of(http, model=model, input="Hi", tools=[TOOL], max_output_tokens=3)
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][-1]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == 3


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    is_large: bool


def test_a_parsed_answer_is_an_instance(client: openai.OpenAI) -> None:
    for seed in range(20):
        response = client.responses.parse(
            model="default",
            input="A city",
            text_format=City,
            temperature=2,
            max_output_tokens=400,
            extra_body={"seed": seed},
        )
        assert isinstance(response.output_parsed, City)


def test_a_required_call_conforms_to_its_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    tool: Any = {"type": "function", "name": "f", "parameters": schema}
    choices: list[Any] = ["required", {"type": "function", "name": "f"}]
    for choice in choices:
        response = client.responses.create(
            model="default", input="x", tools=[tool], tool_choice=choice, parallel_tool_calls=False
        )
        [item] = response.output
        assert item.type == "function_call"
        assert json.loads(item.arguments)["n"] in (1, 2)


def test_with_no_choice_of_tools_there_is_no_call(http: httpx.Client) -> None:
    events = events_of(http, model="calls", input="Weather?", tools=[TOOL], tool_choice="none")
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]


def test_a_second_turn_by_hand_has_the_first_ones_items(api: openai.OpenAI) -> None:
    first = api.responses.create(model="calls", input="Weather?", tools=[TOOL], temperature=0)  # type: ignore[list-item]
    call = first.output[-1]
    assert call.type == "function_call"
    items: list[Any] = [
        {"role": "user", "content": "Weather?"},
        *[item.to_dict() for item in first.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"},
    ]
    second = api.responses.create(model="calls", input=items, tools=[TOOL], temperature=0)  # type: ignore[list-item]
    assert second.status == "completed"
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as refused:
        api.responses.create(model="calls", input=items[:1] + items[-1:])
    assert refused.value.param == "input[1]"
    assert "No tool call found" in refused.value.message


def test_a_prompt_longer_than_the_context_names_the_input(http: httpx.Client) -> None:
    long = {"model": "plain", "input": "word " * 40_000}
    error = http.post("/v1/responses", json=long).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    asked: dict[str, Any] = {"model": "plain", "input": "Hi", "max_output_tokens": 10**8}
    assert http.post("/v1/responses", json=asked).json()["status"] == "completed"


def test_log_probabilities_come_with_their_text(http: httpx.Client) -> None:
    events = events_of(http, model="plain", input="Hi", top_logprobs=2)
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    tokens = [token for delta in deltas for token in delta["logprobs"]]
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert bytes(b for token in tokens for b in token["bytes"]).decode() == STAGED["plain"].says
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == tokens
