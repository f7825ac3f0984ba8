"""What a call's arguments are held to."""

from __future__ import annotations

from typing import Any

import pytest

from worker.tool_calls.grammar import arguments_schema

NAMED = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize("named", [NAMED, {"type": "object", "properties": {}}])
def test_arguments_are_those_that_the_function_names(named: dict[str, Any]) -> None:
    asked = arguments_schema({"name": "look", "parameters": named})
    assert asked["additionalProperties"] is False
    assert asked["properties"] == named["properties"]


@pytest.mark.parametrize(
    "named",
    [
        {"type": "object"},
        {**NAMED, "additionalProperties": {"type": "integer"}},
        {**NAMED, "allOf": [{"properties": {"day": {"type": "string"}}}]},
    ],
)
def test_a_schema_that_asks_for_others_is_left_as_it_is(named: dict[str, Any]) -> None:
    asked = arguments_schema({"name": "look", "parameters": named})
    assert {name: asked[name] for name in named} == named
    assert asked.get("additionalProperties") == named.get("additionalProperties")
