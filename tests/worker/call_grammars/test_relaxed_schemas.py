"""What is left of a tool's schema for a grammar, and what is dropped."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.messages import ChatPrompt
from tests.worker.tool_calls.answers import TOOLS
from worker.call_grammars.relaxed_schemas import RelaxedSchema, is_supported, list_relaxed


def within(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}}


@pytest.mark.parametrize(
    ("schema", "left", "dropped"),
    [
        ({"type": "any"}, {}, [".type"]),
        ({"type": ["any", "null"], "title": "A"}, {"title": "A"}, [".type"]),
        ({"$ref": "other.json#/a"}, {}, [".$ref"]),
        ({"$ref": "#/$defs/none"}, {}, [".$ref"]),
        ({"type": "string", "pattern": "^(?!x)"}, {"type": "string"}, [".pattern"]),
        ({"anyOf": [{"type": "file"}]}, {"anyOf": [{}]}, [".anyOf[0].type"]),
        ({"items": {"type": "date"}}, {"items": {}}, [".items.type"]),
        (
            {"patternProperties": {"(?=a)": {}, "^b": {}}},
            {"patternProperties": {"^b": {}}},
            [".patternProperties.(?=a).pattern"],
        ),
    ],
)
def test_a_keyword_that_no_grammar_can_enforce_is_dropped(
    schema: dict[str, Any], left: dict[str, Any], dropped: list[str]
) -> None:
    relaxed = RelaxedSchema(within(schema))
    assert relaxed.schema == within(left)
    assert relaxed.dropped == [f".properties.a{path}" for path in dropped]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": r"^\d+(?:x|y)\\1$"},
        {"$ref": "#"},
        {"$ref": "#/properties/a"},
        {"properties": {"type": {"type": "string"}, "pattern": {"type": "integer"}}},
        {"enum": [{"type": "any"}], "const": {"$ref": "x"}},
        True,
    ],
)
def test_everything_else_stays(schema: Any) -> None:
    relaxed = RelaxedSchema(within(schema))
    assert (relaxed.schema, relaxed.dropped) == (within(schema), [])


@pytest.mark.parametrize("pattern", [r"(a)\1", r"\bfoo", r"a\Z", "([", "(?<=a)b", "(?P=n)"])
def test_a_pattern_that_is_no_finite_automaton_is_not_supported(pattern: str) -> None:
    assert not is_supported(pattern)


def test_the_paths_are_those_of_the_request_and_a_strict_tool_has_none() -> None:
    parameters = within({"type": "any"})
    tools: list[dict[str, Any]] = [
        {"type": "function", "function": {"name": "f", "parameters": parameters}}
    ]
    strict = {"type": "function", "function": {**tools[0]["function"], "strict": True}}
    paths = list(list_relaxed(ChatPrompt([], tools=[*TOOLS, *tools]), ["f"]))
    assert paths == ["tools[2].function.parameters.properties.a.type"]
    assert list(list_relaxed(ChatPrompt([], tools=[strict]), ["f"])) == []
    assert list(list_relaxed(ChatPrompt([], tools=tools), ["other"])) == []
