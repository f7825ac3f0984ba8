"""Invalid tools are refused by name, and every tool choice becomes a `ToolUse`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from protocol.messages import ToolUse
from service.errors import InvalidRequest
from service.http.decoding import decode_body
from service.schema.chat import ChatRequest
from service.schema.tools import MAX_TOOLS, describe

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def decode(**fields: Any) -> ChatRequest:
    return decode_body(
        json.dumps(CHAT | fields).encode(), msgspec.json.Decoder(ChatRequest)
    ).request


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [named(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"a": schema}
    return schema


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [tool("two\nlines")]}, "tools[0].function.name"),
        ({"tools": [tool("f\n")]}, "tools[0].function.name"),
        ({"tools": [tool("")]}, "tools[0].function.name"),
        ({"tools": [tool("x" * 10**6)]}, "tools[0].function.name"),
        ({"tools": [tool("x" * 129)]}, "tools[0].function.name"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool("a/b")]}, "tools[0].function.name"),
        ({"tools": [tool('"]}')]}, "tools[0].function.name"),
        ({"tools": [tool("é")]}, "tools[0].function.name"),
        ({"tools": [tool("f"), tool("f")]}, "tools[1].function.name"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [tool(parameters={"type": "string"})]}, "tools[0].function.parameters"),
        ({"tools": [tool(parameters=nested(100))]}, "tools"),
        ({"functions": [{"name": "f", "parameters": nested(100)}]}, "functions"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [tool(str(n)) for n in range(MAX_TOOLS + 1)]}, "tools"),
        ({"tools": [tool()], "tool_choice": named("g")}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": allowed("auto", "g")}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "custom", "custom": {"name": "f"}}},
         "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": named("f")}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}, {"name": "f"}]}, "functions[1].name"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"functions": [{"name": "f"}], "tools": [tool()]}, "functions"),
    ],
)  # fmt: skip
def test_an_invalid_tool_or_choice_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    assert caught.value.param == param
    assert len(caught.value.message) <= 300


@pytest.mark.parametrize(
    ("fields", "use"),
    [
        ({}, None),
        ({"tools": []}, None),
        ({"tool_choice": "none"}, None),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, None),
        ({"tools": [tool("f"), tool("g")]}, ToolUse(["f", "g"])),
        ({"tools": [tool("x" * 128)]}, ToolUse(["x" * 128])),
        (
            {"tools": [tool("ns.f-1")], "tool_choice": named("ns.f-1")},
            ToolUse(["ns.f-1"], required=True, parallel=False),
        ),
        (
            {"tools": [tool(str(n)) for n in range(512)]},
            ToolUse([str(n) for n in range(512)]),
        ),
        ({"tools": [tool("f")], "tool_choice": "none"}, None),
        ({"tools": [tool("f")], "tool_choice": "auto"}, ToolUse(["f"])),
        ({"tools": [tool("f")], "parallel_tool_calls": False}, ToolUse(["f"], parallel=False)),
        ({"tools": [tool("f")], "tool_choice": "required"}, ToolUse(["f"], required=True)),
        (
            {"tools": [tool("f"), tool("g")], "tool_choice": named("g")},
            ToolUse(["g"], required=True, parallel=False),
        ),
        (
            {"tools": [tool("f"), tool("g")], "tool_choice": allowed("auto", "g")},
            ToolUse(["g"]),
        ),
        (
            {"tools": [tool("f"), tool("g")], "tool_choice": allowed("required", "g", "g")},
            ToolUse(["g"], required=True),
        ),
        ({"functions": [{"name": "f"}]}, ToolUse(["f"], parallel=False)),
        ({"functions": [{"name": "f"}], "function_call": "none"}, None),
        (
            {"functions": [{"name": "f"}], "function_call": {"name": "f"}},
            ToolUse(["f"], required=True, parallel=False),
        ),
    ],
)
def test_a_choice_decides_which_tools_may_and_must_be_called(
    fields: dict[str, Any], use: ToolUse | None
) -> None:
    assert decode(**fields).tool_use == use


def test_a_template_gets_parameters_even_for_a_function_without_any() -> None:
    [function] = decode(tools=[tool("f")]).declared
    assert describe(function)["function"]["parameters"] == {"type": "object", "properties": {}}
