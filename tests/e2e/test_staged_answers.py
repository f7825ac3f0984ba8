"""Calls that models of many families write, over HTTP: a staged model says each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.models import staged
from tests.models.staged import CHATML, Staged

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}
PARIS = ("get_weather", {"city": "Paris"})
TAGS = ("<tool_call>", "</tool_call>")
JSON_IN_TAGS = "{# <tool_call> tool_call.name tools #}" + CHATML

STAGED = {
    "plain": Staged("Hello, I am staged. 日本語 and 😀.\n\nIt says this twice, twice."),
    "qwen": Staged(
        'I look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
        "</tool_call>",
        template=JSON_IN_TAGS,
        added=TAGS,
    ),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service of all staged models."""
    folder = tmp_path_factory.mktemp("staged")
    paths = [staged.make(model, folder / name) for name, model in STAGED.items()]
    with running(*paths) as daemon:
        yield daemon


@pytest.fixture
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        yield client


def ask(http: httpx.Client, model: str, **changed: Any) -> dict[str, Any]:
    """The answer's message, with its calls decoded and its finish_reason."""
    asked = {"model": model, "messages": [{"role": "user", "content": "Weather?"}], **changed}
    reply = http.post("/v1/chat/completions", json={"temperature": 0, "max_tokens": 400, **asked})
    assert reply.status_code == httpx.codes.OK, reply.text
    [choice] = reply.json()["choices"]
    functions = [call["function"] for call in choice["message"].get("tool_calls") or []]
    return {
        "content": choice["message"]["content"],
        "reasoning": choice["message"].get("reasoning_content"),
        "calls": [(call["name"], json.loads(call["arguments"])) for call in functions],
        "reason": choice["finish_reason"],
    }


def test_a_staged_model_says_its_text(http: httpx.Client) -> None:
    answer = ask(http, "plain")
    assert (answer["content"], answer["reason"]) == (STAGED["plain"].says, "stop")


@pytest.mark.parametrize("family", ["qwen"])
def test_a_call_of_the_family_is_given_as_a_call(http: httpx.Client, family: str) -> None:
    answer = ask(http, family, tools=[TOOL])
    assert (answer["calls"], answer["reason"]) == ([PARIS], "tool_calls")
    assert answer["content"] == "I look."
