"""An answer of reasoning, then calls or a format, goes on under its grammar after a crash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.mortal import Mortal, mortal
from tests.models import staged
from tests.models.staged import CHATML, Staged

# So long that the worker is killed in the middle of each part.
THOUGHT = " ".join(f"t{n}" for n in range(200))
VALUE = " ".join(f"v{n}" for n in range(200))
THINKS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
JSON_CALL = f'<tool_call>\n{{"name": "store", "arguments": {{"value": "{VALUE}"}}}}\n</tool_call>'
TAGGED_CALL = (
    f"<tool_call>\n<function=store>\n<parameter=value>\n{VALUE}\n</parameter>\n</function>\n"
    "</tool_call>"
)


def thinking(note: str, says: str) -> Staged:
    """A model that thinks and then says this; the note tells its syntax."""
    return Staged(f"{THOUGHT}\n</think>\n\n{says}", f"{{# {note} tools #}}{THINKS}", added=TAGS)


JSON_NOTE, TAGGED_NOTE = "<tool_call> tool_call.name", "<tool_call>\n<function="
MODELS = {
    "format": thinking(JSON_NOTE, f'{{"value": "{VALUE}"}}'),
    "json": thinking(JSON_NOTE, JSON_CALL),
    "tagged": thinking(TAGGED_NOTE, TAGGED_CALL),
}
SCHEMA = {
    "type": "object",
    "properties": {"value": {"type": "string"}},
    "required": ["value"],
    "additionalProperties": False,
}
STORE: dict[str, Any] = {
    "type": "function",
    "function": {"name": "store", "description": "Stores.", "parameters": SCHEMA},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
# The worker ends once there is so much of one kind of text.
MANY_CHARS = 300


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    folder = tmp_path_factory.mktemp("grammars")
    models = (staged.make(model, folder / name) for name, model in MODELS.items())
    # Each token is an event, by which `read` counts them.
    with mortal(*models, flags=["--stream-interval-s", "0"]) as dying:
        yield dying


def read(http: httpx.Client, body: dict[str, Any], part: str) -> tuple[dict[str, str], int]:
    """A stream's texts by their kind; how many events come before the middle of the text `part`."""
    said = {"content": "", "reasoning": "", "arguments": "", "name": "", "reason": ""}
    before = 0
    with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            [choice] = json.loads(line.removeprefix("data: "))["choices"]
            delta = choice["delta"]
            said["content"] += delta.get("content") or ""
            said["reasoning"] += delta.get("reasoning_content") or ""
            said["reason"] += choice.get("finish_reason") or ""
            for call in delta.get("tool_calls") or ():
                said["name"] += call["function"].get("name") or ""
                said["arguments"] += call["function"].get("arguments") or ""
            before += len(said[part]) <= MANY_CHARS
    return said, before


@pytest.mark.parametrize(
    ("model", "choice", "part"),
    [
        ("format", "auto", "reasoning"),
        pytest.param("format", "none", "content", marks=pytest.mark.long),
        pytest.param("json", "auto", "arguments", marks=pytest.mark.long),
        ("tagged", "required", "arguments"),
    ],
)
def test_the_text_is_the_same_when_the_worker_is_killed(
    dying: Mortal, model: str, choice: str, part: str
) -> None:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Well?"}],
        "temperature": 0,
        "max_tokens": 2500,
        "tools": [STORE],
        "tool_choice": choice,
        "response_format": FORMAT,
        "parallel_tool_calls": False,
    }
    with plain_http.client(dying.daemon.url) as http:
        expected, tokens = read(http, body, part)
        assert expected["reasoning"] == THOUGHT
        assert json.loads(expected["arguments"] or expected["content"]) == {"value": VALUE}
        restarts = dying.restarts()
        dying.end_after(tokens)
        assert read(http, body, part)[0] == expected
        assert dying.restarts() == restarts + 1
