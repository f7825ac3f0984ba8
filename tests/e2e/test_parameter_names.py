"""What a model cannot honour is named as the request has it, in each API."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

USER = [{"role": "user", "content": "x"}]
ASKED: dict[str, dict[str, Any]] = {
    "chat/completions": {"model": "default", "messages": USER, "max_tokens": 4},
    "completions": {"model": "default", "prompt": "x", "max_tokens": 4},
    "responses": {"model": "default", "input": "x", "max_output_tokens": 4},
    "messages": {"model": "default", "messages": USER, "max_tokens": 4},
}
# No text is of this schema, and of this one only what is left of it is enforced.
IMPOSSIBLE = {"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]}
ODD = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}
PATTERN = "properties.a.pattern"
FORMAT = {"type": "json_schema", "schema": IMPOSSIBLE}


def function(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "name": "f", "parameters": schema}


def namespace(schema: dict[str, Any]) -> dict[str, Any]:
    others = [{**function({}), "name": "g"}]
    return {"type": "namespace", "name": "n", "tools": [*others, function(schema)]}


def chat_tool(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (
            "chat/completions",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": IMPOSSIBLE},
                }
            },
            "response_format",
        ),
        ("chat/completions", {"structured_outputs": {"json": IMPOSSIBLE}}, "structured_outputs"),
        ("completions", {"structured_outputs": {"json": IMPOSSIBLE}}, "structured_outputs"),
        ("responses", {"structured_outputs": {"json": IMPOSSIBLE}}, "structured_outputs"),
        ("responses", {"text": {"format": {"name": "n", **FORMAT}}}, "text.format"),
        ("messages", {"structured_outputs": {"json": IMPOSSIBLE}}, "structured_outputs"),
        ("messages", {"output_format": FORMAT}, "output_format"),
        ("messages", {"output_config": {"format": FORMAT}}, "output_config.format"),
        (
            "chat/completions",
            {"tools": [chat_tool(IMPOSSIBLE)], "tool_choice": "required"},
            "tools",
        ),
        (
            "chat/completions",
            {
                "functions": [{"name": "f", "parameters": IMPOSSIBLE}],
                "function_call": {"name": "f"},
            },
            "functions",
        ),
        ("responses", {"tools": [function(IMPOSSIBLE)], "tool_choice": "required"}, "tools"),
    ],
)
def test_a_grammar_that_cannot_be_enforced_is_refused_by_its_own_name(
    http: httpx.Client, path: str, body: dict[str, Any], name: str
) -> None:
    asked = {**ASKED[path], **body}
    reply = http.post(f"/v1/{path}", json=asked)
    assert reply.status_code == httpx.codes.BAD_REQUEST, reply.text
    error = reply.json()["error"]
    assert error["message"].startswith(f"`{name}` cannot be enforced")
    assert error.get("param", name) == name


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("chat/completions", {"tools": [chat_tool(ODD)]}, "tools[0].function.parameters"),
        (
            "chat/completions",
            {"functions": [{"name": "f", "parameters": ODD}]},
            "functions[0].parameters",
        ),
        ("responses", {"tools": [function(ODD)]}, "tools[0].parameters"),
        ("responses", {"tools": [{"type": "mcp"}, function(ODD)]}, "tools[1].parameters"),
        (
            "responses",
            {
                "tools": [{"type": "mcp"}, namespace(ODD)],
                "tool_choice": {"type": "function", "name": "f", "namespace": "n"},
            },
            "tools[1].tools[1].parameters",
        ),
        ("messages", {"tools": [{"name": "f", "input_schema": ODD}]}, "tools[0].input_schema"),
    ],
)
def test_what_is_not_enforced_of_a_tool_is_named_by_its_place_in_the_request(
    http: httpx.Client, path: str, body: dict[str, Any], place: str
) -> None:
    reply = http.post(f"/v1/{path}", json={**ASKED[path], **body})
    assert reply.status_code == httpx.codes.OK, reply.text
    assert reply.headers["x-mlxd-ignored"] == f"{place}.{PATTERN}"
