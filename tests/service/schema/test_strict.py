"""Tools and `response_format` refuse the same strict schemas, at the same place."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from service.errors import InvalidRequest
from service.http.decoding import decode_body
from service.schema.chat import ChatRequest

STRICT: dict[str, Any] = {
    "type": "object",
    "properties": {"b": {"$ref": "#/$defs/B"}, "a": {"type": "array", "items": {"type": "string"}}},
    "required": ["b", "a"],
    "additionalProperties": False,
    "$defs": {"B": {"type": "object", "properties": {}, "additionalProperties": False}},
}
# Neither closed nor with all its properties required.
LOOSE: dict[str, Any] = {"type": "object", "properties": {"x": {"type": "string"}}}
CLOSED = LOOSE | {"required": ["x"], "additionalProperties": False}


def with_property(schema: Any) -> dict[str, Any]:
    """A strict schema with the single property `a`."""
    return STRICT | {"properties": {"a": schema}, "required": ["a"]}


def tool(schema: Any, *, strict: bool) -> dict[str, Any]:
    function = {"name": "f", "parameters": schema, "strict": strict}
    return {"tools": [{"type": "function", "function": function}]}


def function(schema: Any, *, strict: bool) -> dict[str, Any]:
    return {"functions": [{"name": "f", "parameters": schema, "strict": strict}]}


def response_format(schema: Any, *, strict: bool) -> dict[str, Any]:
    json_schema = {"name": "f", "schema": schema, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


def decode(fields: dict[str, Any]) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]} | fields
    return decode_body(json.dumps(body).encode(), msgspec.json.Decoder(ChatRequest)).request


USES = pytest.mark.parametrize(
    ("use", "param"),
    [
        (tool, "tools[0].function.parameters"),
        (function, "functions[0].parameters"),
        (response_format, "response_format"),
    ],
)


@USES
@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (STRICT | {"additionalProperties": True}, "in context=(), 'additionalProperties'"),
        (STRICT | {"required": ["a"]}, "missing: 'b'"),
        (STRICT | {"required": 5}, "'required' an array"),
        (STRICT | {"properties": 5}, "'properties' must be an object"),
        (STRICT | {"anyOf": []}, "of type 'object' at its root"),
        (
            {name: value for name, value in STRICT.items() if name != "type"},
            "of type 'object' at its root",
        ),
        (STRICT | {"$defs": {"B": {"type": "object"}}}, "in context=('$defs', 'B')"),
        (STRICT | {"definitions": {"B": LOOSE}}, "in context=('definitions', 'B')"),
        (with_property(LOOSE), "in context=('properties', 'a')"),
        (with_property({"type": "object"}), "in context=('properties', 'a')"),
        (with_property({"type": ["object", "null"]}), "in context=('properties', 'a')"),
        (with_property({"properties": {}}), "in context=('properties', 'a')"),
        (
            with_property({"type": "array", "items": LOOSE}),
            "in context=('properties', 'a', 'items')",
        ),
        *[
            (with_property({keyword: [CLOSED, LOOSE]}), f"'a', '{keyword}', '1')")
            for keyword in ("anyOf", "allOf", "oneOf", "prefixItems", "items")
        ],
    ],
)
def test_a_schema_that_breaks_a_strict_rule_is_refused_only_if_it_is_strict(
    use: Any, param: str, schema: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(use(schema, strict=True))
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")
    assert message in caught.value.message
    decode(use(schema, strict=False))


@USES
@pytest.mark.parametrize(
    "schema",
    [
        STRICT,
        {"type": "object", "additionalProperties": False},
        with_property(CLOSED),
        with_property({"$ref": "#"}),
        with_property({"anyOf": [CLOSED, {"type": "null"}]}),
        with_property({"type": "array", "items": [CLOSED, {"type": "string"}]}),
        with_property(True),
    ],
)
def test_a_schema_that_follows_the_strict_rules_is_accepted(
    use: Any, param: str, schema: dict[str, Any]
) -> None:
    assert decode(use(schema, strict=True)) is not None


@pytest.mark.parametrize("use", [tool, function])
def test_a_strict_function_must_declare_its_parameters(use: Any) -> None:
    with pytest.raises(InvalidRequest):
        decode(use(None, strict=True))
    decode(use(None, strict=False))
