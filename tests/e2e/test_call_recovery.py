"""Tool calls are the same when the real worker is killed while it writes them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.json_events import Body, parts_of
from tests.prompts import PROMPTS
from worker.demo import demo_model_path

STREAMS, PLAIN = 6, 3
# After how many argument pieces since the last death, of all streams together, the next one is.
KILL_AFTER_PIECES = (24, 60)
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

    def add(self, part: dict[str, Any]) -> int:
        """One event or the one body; how many pieces of arguments it had."""
        if part.get("usage"):
            names = ("prompt_tokens", "completion_tokens")
            self.usage = {name: part["usage"][name] for name in names}
        pieces = 0
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
                pieces += 1
        return pieces


# One for each test: after many deaths in a short time a service pauses before the next worker.
@pytest.fixture
def own(llama_path: Path, qwen_path: Path) -> Iterator[Daemon]:
    with running(llama_path, qwen_path, demo_model_path()) as daemon:
        yield daemon


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


async def call_all(daemon: Daemon, asked: list[Body], kills: tuple[int, ...] = ()) -> list[Called]:
    """All answers, while the worker is killed after so many more pieces each time."""
    answers = [Called() for _ in asked]
    pieces = 0
    grown = anyio.Event()

    async def one(client: httpx.AsyncClient, place: int) -> None:
        nonlocal pieces, grown
        async with client.stream("POST", "/v1/chat/completions", json=asked[place]) as response:
            assert response.status_code == 200, await response.aread()
            async for part in parts_of(response, stream="stream" in asked[place]):
                assert "error" not in part, part
                pieces += answers[place].add(part)
                grown.set()
                grown = anyio.Event()

    async with (
        plain_http.async_client(daemon.url) as client,
        anyio.create_task_group() as group,
    ):
        for place in range(len(asked)):
            group.start_soon(one, client, place)
        for more in kills:
            goal = pieces + more
            while pieces < goal:
                await grown.wait()
            restarts = daemon.health()["worker"]["restarts"]
            os.kill(daemon.health()["worker"]["pid"], signal.SIGKILL)
            back = partial(daemon.wait_until, "worker.restarts", be=restarts + 1)
            await anyio.to_thread.run_sync(back)
    return answers


def test_calls_that_a_model_opens_by_itself_are_no_different(own: Daemon) -> None:
    asking = "What is the weather in Paris?"
    asked = bodies(demo_model_path().name, asking, tool_choice="auto")
    undisturbed = anyio.run(call_all, own, asked)
    assert any(answer.finish_reason == "tool_calls" for answer in undisturbed)
    assert anyio.run(call_all, own, asked, KILL_AFTER_PIECES) == undisturbed


@pytest.mark.long
@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_calls_under_kills_are_the_undisturbed_ones_and_no_piece_comes_twice(
    own: Daemon, model_paths: dict[str, Path], family: str
) -> None:
    asked = bodies(model_paths[family].name)
    undisturbed = anyio.run(call_all, own, asked)
    assert {answer.finish_reason for answer in undisturbed} == {"tool_calls", "length"}
    for body, answer in zip(asked, undisturbed, strict=True):
        if answer.finish_reason == "tool_calls":
            assert all("value" in json.loads(arguments) for _, arguments in answer.calls), body
    before = own.health()["worker"]["restarts"]
    killed = anyio.run(call_all, own, asked, KILL_AFTER_PIECES)
    assert own.health()["worker"]["restarts"] == before + len(KILL_AFTER_PIECES)
    assert killed == undisturbed
