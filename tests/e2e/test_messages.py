"""Messages over HTTP: staged models think, talk and call tools."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.models import staged
from tests.models.staged import CHATML, Staged

TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
HARMONY = (
    "{# <|channel|> #}{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>"
    "{% endfor %}{{ tools | tojson }}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
STAGED = {
    "plain": Staged("Hello, I am staged. 日本語 and 😀.\n\nIt says this twice, twice."),
    "calling": Staged(
        f"I look.\n{CALL}",
        template="{# <tool_call> tool_call.name tools #}" + CHATML,
        added=("<tool_call>", "</tool_call>"),
    ),
    "thinking": Staged(
        "<|channel|>analysis<|message|>It greets.<|end|><|start|>assistant<|channel|>final"
        "<|message|>Hello to you.",
        template=HARMONY,
        special=("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>"),
        added=("assistant",),
        end="<|call|>",
        after="assistant",
    ),
}
USER = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("staged")
    models = [staged.make(model, folder / name) for name, model in STAGED.items()]
    with running(*models) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def http(daemon: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(daemon.url) as client:
        yield client


def body_of(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 200, "messages": [USER], "temperature": 0, **fields}


def ask(http: httpx.Client, model: str, **fields: Any) -> dict[str, Any]:
    response = http.post("/v1/messages?beta=true", json=body_of(model, **fields))
    assert response.status_code == 200, response.text
    assert response.headers["request-id"] == response.headers["x-request-id"]
    message: dict[str, Any] = response.json()
    return message


def stream(http: httpx.Client, model: str, **fields: Any) -> list[dict[str, Any]]:
    response = http.post("/messages", json=body_of(model, stream=True, **fields))
    assert response.status_code == 200, response.text
    lines = response.text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event.get("delta", {}).get("text", "") for event in events)


def test_an_answer_has_its_text_its_end_and_its_usage(http: httpx.Client) -> None:
    message = ask(http, "plain")
    assert message["content"] == [{"type": "text", "text": STAGED["plain"].says}]
    assert (message["role"], message["stop_reason"]) == ("assistant", "end_turn")
    assert message["id"].startswith("msg_")
    again = ask(http, "plain")["usage"]
    assert again["cache_read_input_tokens"] > 0
    total = message["usage"]["input_tokens"] + message["usage"]["cache_read_input_tokens"]
    assert again["input_tokens"] + again["cache_read_input_tokens"] == total


def test_a_stream_has_the_same_text(http: httpx.Client) -> None:
    events = stream(http, "plain")
    assert [events[0]["type"], events[1]["type"]] == ["message_start", "ping"]
    assert text_of(events) == STAGED["plain"].says
    assert events[-1]["type"] == "message_stop"


@pytest.mark.parametrize(
    ("fields", "reason", "stop"),
    [
        ({"stop_sequences": ["never", "staged"]}, "stop_sequence", "staged"),
        ({"max_tokens": 3}, "max_tokens", None),
        ({"max_tokens": 10**9}, "end_turn", None),
    ],
)
def test_the_end_of_an_answer_has_a_reason(
    http: httpx.Client, fields: dict[str, Any], reason: str, stop: str | None
) -> None:
    message = ask(http, "plain", **fields)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, stop)
    assert stream(http, "plain", **fields)[-2]["delta"]["stop_reason"] == reason


def test_a_call_is_a_block_and_its_result_is_taken(http: httpx.Client) -> None:
    message = ask(http, "calling", tools=[TOOL])
    assert message["stop_reason"] == "tool_use"
    assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
    call = message["content"][1]
    assert (call["name"], call["input"]) == ("get_weather", {"city": "Paris"})
    assert call["id"].startswith("toolu_")
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "Sunny"}
    conversation = [
        USER,
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": [result]},
    ]
    counted = http.post(
        "/v1/messages/count_tokens",
        json={"model": "calling", "tools": [TOOL], "messages": conversation, "system": "Be brief."},
    ).json()
    second = ask(http, "calling", tools=[TOOL], messages=conversation, system="Be brief.")
    usage = second["usage"]
    total = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert counted == {"input_tokens": total}


def test_without_tools_or_with_none_of_them_the_text_is_no_call(http: httpx.Client) -> None:
    for fields in ({}, {"tools": [TOOL], "tool_choice": {"type": "none"}}):
        message = ask(http, "calling", **fields)
        assert [block["type"] for block in message["content"]] == ["text"]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_tool_that_must_be_called_is(http: httpx.Client, choice: dict[str, Any]) -> None:
    message = ask(http, "calling", tools=[TOOL], tool_choice=choice)
    assert [block["name"] for block in message["content"] if block["type"] == "tool_use"]


def test_thinking_is_a_block_before_the_text(http: httpx.Client) -> None:
    message = ask(http, "thinking")
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["content"][0]["thinking"] == "It greets."
    assert message["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    omitted = ask(http, "thinking", thinking={"type": "adaptive", "display": "omitted"})
    assert omitted["content"][0]["thinking"] == ""
    assert omitted["content"][1] == message["content"][1]


def test_an_answer_has_the_format_of_a_schema(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    shape = {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}
    for fields in ({"output_config": {"format": shape}}, {"output_format": shape}):
        message = ask(http, "plain", **fields)
        assert isinstance(json.loads(message["content"][0]["text"])["n"], int)


def test_an_answer_goes_on_from_the_last_message(http: httpx.Client) -> None:
    prefill = {"role": "assistant", "content": "Hello, I am"}
    message = ask(http, "plain", messages=[USER, prefill])
    assert STAGED["plain"].says.endswith(message["content"][0]["text"])
    assert not message["content"][0]["text"].startswith("Hello, I am")


def test_labels_change_no_prompt(http: httpx.Client) -> None:
    cached = {"type": "ephemeral", "ttl": "1h"}
    blocks = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=1;"},
        {"type": "text", "text": "Be brief.", "cache_control": cached},
    ]
    labelled = {"system": blocks, "metadata": {"user_id": "u"}, "cache_control": cached}
    plain = {"system": "Be brief."}
    counts = [
        http.post(
            "/messages/count_tokens", json={"model": "plain", "messages": [USER], **fields}
        ).json()
        for fields in (labelled, plain)
    ]
    assert counts[0] == counts[1]


def test_what_a_model_ignores_has_its_name_here(http: httpx.Client) -> None:
    body = body_of("plain", output_config={"effort": "low"})
    response = http.post("/v1/messages", json=body)
    assert response.headers["x-mlxd-ignored"] == "output_config.effort"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("POST", "/v1/messages", {"model": "none"}, 404, "not_found_error"),
        ("POST", "/v1/messages", {"max_tokens": 0}, 400, "invalid_request_error"),
        ("POST", "/v1/messages/batches", {}, 404, "not_found_error"),
        ("GET", "/v1/messages", None, 405, "invalid_request_error"),
    ],
)
def test_errors_have_anthropics_shape(
    http: httpx.Client, method: str, path: str, body: Any, status: int, kind: str
) -> None:
    json_body = None if body is None else {**body_of("plain"), **body}
    response = http.request(method, path, json=json_body)
    assert response.status_code == status
    assert response.json()["error"]["type"] == kind
    assert response.json()["request_id"] == response.headers["request-id"]


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(http: httpx.Client) -> None:
    long = {"role": "user", "content": "a" * 2 * staged.CONTEXT_TOKENS}
    response = http.post("/v1/messages", json=body_of("plain", messages=[long]))
    assert response.status_code == 400
    text = response.json()["error"]["message"]
    assert re.fullmatch(rf"prompt is too long: \d+ tokens > {staged.CONTEXT_TOKENS} maximum", text)


def test_thinking_ends_at_its_budget(http: httpx.Client) -> None:
    def count(budget: int) -> int:
        thinking = {"type": "enabled", "budget_tokens": budget}
        usage = ask(http, "thinking", thinking=thinking)["usage"]
        return int(usage["output_tokens_details"]["thinking_tokens"])

    assert count(2) < count(1000)


# The fields, blocks and roles of Claude Code 2.1.332's requests, with texts of our own.
AGENT_TOOLS = [
    {
        "name": name,
        "description": f"Use {name} where it helps. " * 8,
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "number"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    for name in ("Bash", "Edit", "Read", "Write", "get_weather", *(f"Tool{n}" for n in range(16)))
]
CACHED = {"cache_control": {"type": "ephemeral"}}


def agent_request(*further: dict[str, Any]) -> dict[str, Any]:
    question = [{"type": "text", "text": "<system-reminder>\nA.\n</system-reminder>\n"}]
    environment: Any = "# Environment\nA machine."
    if not further:
        environment = [{"type": "text", "text": environment, **CACHED}]
    return {
        "model": "calling",
        "max_tokens": 32000,
        "stream": True,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.332.93d;"},
            {"type": "text", "text": "You are an agent.", **CACHED},
            {"type": "text", "text": "Be brief.", **CACHED},
        ],
        "messages": [
            {"role": "user", "content": [*question, {"type": "text", "text": "Make it."}]},
            {"role": "system", "content": environment},
            *further,
        ],
        "tools": AGENT_TOOLS,
        "metadata": {"user_id": json.dumps({"session_id": "s"})},
        "thinking": {"type": "adaptive", "display": "updates"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
    }


def test_an_agents_second_turn_finds_the_prompt_of_its_first(http: httpx.Client) -> None:
    def send(body: dict[str, Any]) -> list[dict[str, Any]]:
        headers = {
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "claude-code-20250219,effort-2025-11-24",
            "x-api-key": "none",
        }
        response = http.post("/v1/messages?beta=true", json=body, headers=headers)
        assert response.status_code == 200, response.text
        assert "x-mlxd-ignored" not in response.headers
        lines = response.text.splitlines()
        return [
            json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")
        ]

    assert http.head("/").status_code == 200
    first = send(agent_request())
    starts = [event["content_block"] for event in first if "content_block" in event]
    (call,) = [block for block in starts if block["type"] == "tool_use"]
    assert first[-2]["context_management"] == {"applied_edits": []}
    answer = [{"type": "text", "text": "I look."}, {**call, "input": {"city": "Paris"}}]
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "", "is_error": False}
    second = send(
        agent_request(
            {"role": "assistant", "content": answer},
            {"role": "user", "content": [{**result, **CACHED}]},
        )
    )
    total = first[-2]["usage"]["input_tokens"] + first[-2]["usage"]["cache_read_input_tokens"]
    assert second[-2]["usage"]["cache_read_input_tokens"] > 0.95 * total


def test_models_have_anthropics_shape_for_its_clients(http: httpx.Client) -> None:
    version = {"anthropic-version": "2026-10-21"}
    listed = http.get("/v1/models?limit=1000", headers=version).json()
    assert [model["id"] for model in listed["data"]] == list(STAGED)
    first, *_, last = STAGED
    assert (listed["first_id"], listed["last_id"]) == (first, last)
    assert listed["has_more"] is False
    model = http.get("/v1/models/default", headers=version).json()
    assert model == listed["data"][0]
    assert (model["type"], model["lifecycle"]) == ("model", "active")
    assert model["max_input_tokens"] == model["max_tokens"] == staged.CONTEXT_TOKENS
    assert "object" in http.get("/v1/models").json()
    missing = http.get("/v1/models/none", headers=version)
    assert missing.json()["error"]["type"] == "not_found_error"
    assert "param" in http.get("/v1/models/none").json()["error"]
