from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from protocol.grammars import Grammar, JsonObject, JsonSchema, Lark, Regex, TextChoice
from service.errors import InvalidRequest
from service.http.decoding import decode_body
from service.schema.chat import ChatRequest
from service.schema.completions import CompletionRequest
from service.schema.structured import MAX_GRAMMAR_BYTES

STRICT = {
    "type": "object",
    "properties": {"b": {"$ref": "#/$defs/B"}, "a": {"type": "array", "items": {"type": "string"}}},
    "required": ["b", "a"],
    "additionalProperties": False,
    "$defs": {"B": {"type": "object", "properties": {}, "additionalProperties": False}},
}


def chat(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]} | fields
    return decode_body(json.dumps(body).encode(), msgspec.json.Decoder(ChatRequest)).request


def schema_format(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema} | fields}


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": None, "structured_outputs": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, JsonObject()),
        ({"structured_outputs": {"regex": "a+"}}, Regex("a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, TextChoice(["a", "b"])),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Lark('start: "a"')),
        (
            {"response_format": {"type": "text"}, "structured_outputs": {"regex": "a+"}},
            Regex("a+"),
        ),
    ],
)
def test_a_format_becomes_a_grammar(fields: dict[str, Any], grammar: Grammar | None) -> None:
    assert chat(**fields).grammar == grammar


def test_a_grammar_can_constrain_a_completion_too() -> None:
    body = {"model": "m", "prompt": "p", "response_format": {"type": "json_object"}}
    decoder = msgspec.json.Decoder(CompletionRequest)
    assert decode_body(json.dumps(body).encode(), decoder).request.grammar == JsonObject()


@pytest.mark.parametrize("strict", [None, False, True])
def test_a_schema_keeps_the_order_of_its_keys(strict: bool | None) -> None:
    grammar = chat(response_format=schema_format(STRICT, strict=strict)).grammar
    assert isinstance(grammar, JsonSchema)
    assert list(json.loads(grammar.schema)["properties"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": schema_format({}, name="a b")},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": schema_format({}, name="x" * 65)},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": schema_format({"description": "x" * MAX_GRAMMAR_BYTES})},
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice[0]"),
        ({"structured_outputs": {"choice": ["x" * 1000] * 1000}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        (
            {
                "response_format": {"type": "json_object"},
                "structured_outputs": {"regex": "a"},
            },
            "structured_outputs",
        ),
        ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_an_invalid_format_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


@pytest.mark.parametrize("depth", [33, 200])
def test_a_schema_with_deep_nesting_is_refused(depth: int) -> None:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    assert refusal(response_format=schema_format(schema)).param == "response_format"
