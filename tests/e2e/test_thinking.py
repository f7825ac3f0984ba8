"""Reasoning within a budget of tokens, over HTTP, on staged models that reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.mortal import mortal
from tests.models import staged
from tests.models.thinking import ADD, CONTENT, LONG_CONTENT, MODELS, THOUGHT

CHAT = "/v1/chat/completions"
BUDGET = 5
LONG_BUDGET = 100


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("thinking")
    with running(*(staged.make(model, folder / name) for name, model in MODELS.items())) as daemon:
        yield daemon


@pytest.fixture
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        yield client


def ask(http: httpx.Client, model: str, **fields: Any) -> httpx.Response:
    asked = {"model": model, "messages": [{"role": "user", "content": "Well?"}], **fields}
    reply = http.post(CHAT, json={"temperature": 0, "max_tokens": 400, **asked})
    assert reply.status_code == httpx.codes.OK, reply.text
    return reply


def events_of(reply: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1] if not line.startswith(":")]


def reasoning_tokens(body: dict[str, Any]) -> int:
    count: int = body["usage"]["completion_tokens_details"]["reasoning_tokens"]
    return count


@pytest.mark.parametrize("model", ["opens", "opened"])
def test_the_answer_follows_reasoning_that_its_budget_ends(http: httpx.Client, model: str) -> None:
    body = ask(http, model, thinking_token_budget=BUDGET).json()
    message = body["choices"][0]["message"]
    assert message["content"] == CONTENT
    assert THOUGHT.startswith(message["reasoning_content"])
    assert message["reasoning_content"] != THOUGHT
    # The end marker and, where the model writes it, the start marker are reasoning, too.
    assert reasoning_tokens(body) == BUDGET + (2 if model == "opens" else 1)
    whole = ask(http, model, thinking_token_budget=-1).json()
    assert whole["choices"][0]["message"]["reasoning_content"] == THOUGHT


def test_a_stream_is_the_same(http: httpx.Client) -> None:
    whole = ask(http, "opened", thinking_token_budget=BUDGET).json()
    options = {"include_usage": True}
    events = events_of(
        ask(http, "opened", thinking_token_budget=BUDGET, stream=True, stream_options=options)
    )
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    for name in ("content", "reasoning_content"):
        text = "".join(delta.get(name) or "" for delta in deltas)
        assert text == whole["choices"][0]["message"][name]
    assert reasoning_tokens(events[-1]) == reasoning_tokens(whole)


def test_reasoning_ends_before_a_required_call(http: httpx.Client) -> None:
    for budget in (0, BUDGET):
        fields = {"tools": [ADD], "tool_choice": "required", "thinking_token_budget": budget}
        body = ask(http, "calls", **fields).json()
        [call] = body["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"a": 1}
        assert reasoning_tokens(body) == budget + 1


def test_a_model_that_marks_no_reasoning_says_that_it_ignores_the_budget(
    http: httpx.Client,
) -> None:
    ignored = ask(http, "plain", thinking_token_budget=BUDGET)
    assert ignored.headers["x-mlxd-ignored"] == "thinking_token_budget"
    assert ignored.json()["choices"][0]["message"]["content"] == CONTENT
    assert "x-mlxd-ignored" not in ask(http, "opens", thinking_token_budget=BUDGET).headers


@pytest.mark.parametrize("budget", [-2, 1.5, "many", True])
def test_other_values_are_refused(http: httpx.Client, budget: object) -> None:
    asked = {"model": "opens", "messages": [{"role": "user", "content": "Well?"}]}
    reply = http.post(CHAT, json={**asked, "thinking_token_budget": budget})
    assert reply.status_code == httpx.codes.BAD_REQUEST
    assert reply.json()["error"]["param"] == "thinking_token_budget"


@pytest.mark.long
def test_reasoning_ends_at_the_same_token_when_the_worker_is_killed(tmp_path: Path) -> None:
    """The worker dies in reasoning, and in the content after it."""
    asked: dict[str, Any] = {"thinking_token_budget": LONG_BUDGET, "max_tokens": 2000}
    model = staged.make(MODELS["long"], tmp_path / "long")
    with mortal(model) as dying, plain_http.client(dying.daemon.url) as http:
        expected = ask(http, "long", **asked).json()
        message = expected["choices"][0]["message"]
        assert message["content"] == LONG_CONTENT
        for deaths, tokens in enumerate((LONG_BUDGET // 2, LONG_BUDGET + 50), 1):
            dying.end_after(tokens)
            said, usage = read_stream(http, asked)
            assert said == {name: message[name] for name in said}
            assert reasoning_tokens(usage) == reasoning_tokens(expected) == LONG_BUDGET + 1
            assert dying.restarts() == deaths


def read_stream(
    http: httpx.Client, fields: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """A stream's text and its usage."""
    options = {"include_usage": True}
    events = events_of(ask(http, "long", stream=True, stream_options=options, **fields))
    said = {"content": "", "reasoning_content": ""}
    for event in events:
        for choice in event["choices"]:
            for name in said:
                said[name] += choice["delta"].get(name) or ""
    return said, events[-1]
