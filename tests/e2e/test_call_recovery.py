"""Tool calls are the same when the real worker is killed while it writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.json_events import Body, parts_of
from tests.e2e.mortal import Mortal, mortal
from tests.prompts import PROMPTS

STREAMS, PLAIN = 6, 3
# After how many tokens since the last death, of all answers together, the next one is.
DEATHS_AFTER = (300, 500)
# Long calls that end; others are free text, which untrained models write until they are cut.
ITEMS, TOKENS = 24, 240
STATES = {"type": "array", "minItems": ITEMS, "maxItems": ITEMS, "items": {"enum": ["on", "off"]}}


@dataclass
class Called:
    """All that a client can see of an answer with calls, but its ids."""

    content: str = ""
    calls: list[list[str]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    def add(self, part: dict[str, Any]) -> None:
        """Take one event, or the one body."""
        if part.get("usage"):
            names = ("prompt_tokens", "completion_tokens")
            self.usage = {name: part["usage"][name] for name in names}
        for choice in part["choices"]:
            said = choice["delta"] if "delta" in choice else choice["message"]
            self.content += said.get("content") or ""
            self.finish_reason = choice["finish_reason"] or self.finish_reason
            for call in said.get("tool_calls") or []:
                function = call["function"]
                if "name" in function:
                    assert call.get("index", len(self.calls)) == len(self.calls)
                    self.calls.append([function["name"], ""])
                self.calls[call.get("index", -1)][1] += function["arguments"]


@pytest.fixture(scope="module")
def demo_alone() -> Iterator[Mortal]:
    with mortal() as dying:
        yield dying


@pytest.fixture(scope="module")
def own(llama_path: Path, qwen_path: Path) -> Iterator[Mortal]:
    with mortal(llama_path, qwen_path) as dying:
        yield dying


def bodies(model: str, asking: str = "{}", **changed: Any) -> list[Body]:
    """Streams and plain requests by greedy draws; every third is of free text, which is cut."""
    asked: list[Body] = []
    for place, prompt in zip(range(STREAMS + PLAIN), PROMPTS * 4, strict=False):
        value = {"type": "string", "minLength": 300} if place % 3 == 2 else STATES
        schema = {"type": "object", "properties": {"value": value}, "required": ["value"]}
        body: Body = {
            "model": model,
            "messages": [{"role": "user", "content": asking.format(f"{place} {prompt}")}],
            "tools": [{"type": "function", "function": {"name": "save", "parameters": schema}}],
            "tool_choice": "required",
            "parallel_tool_calls": place % 2 == 0,
            "max_tokens": TOKENS,
            "temperature": 0,
            **changed,
        }
        if place < STREAMS:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        asked.append(body)
    return asked


async def call_all(daemon: Daemon, asked: list[Body]) -> list[Called]:
    """All answers, to requests sent at once."""
    answers = [Called() for _ in asked]

    async def one(client: httpx.AsyncClient, place: int) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=asked[place]) as response:
            assert response.status_code == 200, await response.aread()
            async for part in parts_of(response, stream="stream" in asked[place]):
                assert "error" not in part, part
                answers[place].add(part)

    async with (
        plain_http.async_client(daemon.url) as client,
        anyio.create_task_group() as group,
    ):
        for place in range(len(asked)):
            group.start_soon(one, client, place)
    return answers


def call_under_deaths(own: Mortal, asked: list[Body]) -> list[Called]:
    """All answers, while workers end under them."""
    before = own.restarts()
    own.end_after(*DEATHS_AFTER)
    answers = anyio.run(call_all, own.daemon, asked)
    assert own.restarts() == before + len(DEATHS_AFTER)
    return answers


@pytest.mark.long
def test_calls_that_a_model_opens_by_itself_are_no_different(demo_alone: Mortal) -> None:
    asking = "What is the weather in Paris?"
    asked = bodies("default", asking, tool_choice="auto")
    undisturbed = anyio.run(call_all, demo_alone.daemon, asked)
    assert any(answer.finish_reason == "tool_calls" for answer in undisturbed)
    assert call_under_deaths(demo_alone, asked) == undisturbed


@pytest.mark.long
@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_calls_under_kills_are_the_undisturbed_ones_and_no_piece_comes_twice(
    own: Mortal, model_paths: dict[str, Path], family: str
) -> None:
    asked = bodies(model_paths[family].name)
    undisturbed = anyio.run(call_all, own.daemon, asked)
    assert {answer.finish_reason for answer in undisturbed} == {"tool_calls", "length"}
    for body, answer in zip(asked, undisturbed, strict=True):
        if answer.finish_reason == "tool_calls":
            assert all("value" in json.loads(arguments) for _, arguments in answer.calls), body
    assert call_under_deaths(own, asked) == undisturbed
