"""The schemas that the arguments of calls are held to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from protocol.grammars import JSON_STYLE
from worker.call_grammars.relaxed_schemas import RelaxedSchema
from worker.tool_calls.syntax import Tool

# With one of these keywords a schema defines or allows arguments besides its `properties`.
OPEN_SCHEMA_KEYWORDS = frozenset({
    "$ref", "additionalProperties", "allOf", "anyOf", "else", "if", "oneOf", "patternProperties",
    "propertyNames", "then", "unevaluatedProperties",
})  # fmt: skip


def named_functions(tools: Sequence[Tool], names: Sequence[str]) -> list[dict[str, Any]]:
    """The functions of the tools with these names."""
    wanted = frozenset(names)
    return [tool["function"] for tool in tools if tool["function"]["name"] in wanted]


def arguments_schema(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of a call's arguments.

    Keywords that cannot be enforced are ignored unless the function is `strict`.
    """
    strict, parameters = bool(function.get("strict")), function["parameters"]
    if not strict:
        parameters = RelaxedSchema(parameters).schema
    style = {**JSON_STYLE, "lenient": not strict}
    return {"type": "object", **close_properties(parameters), "x-guidance": style}


def close_properties(parameters: dict[str, Any]) -> dict[str, Any]:
    """Allow no additional properties, if the schema names some and does not mention others.

    A function does not read arguments that it does not declare, and weak models invent some.
    """
    if "properties" not in parameters or not OPEN_SCHEMA_KEYWORDS.isdisjoint(parameters):
        return parameters
    return {**parameters, "additionalProperties": False}


LOCAL_REFERENCES = ("#/$defs/", "#/definitions/")
REFERENCE = regex.compile(r'"\$ref": "([^"]*)"')


class Arguments:
    """The arguments of a function, as its schema tells: `properties`, those `required`.

    `is_open`: there may be others.
    """

    def __init__(self, function: dict[str, Any]) -> None:
        self.root = arguments_schema(function)
        self.properties: dict[str, Any] = self.root.get("properties") or {}
        self.required = frozenset(self.root.get("required") or ()) & self.properties.keys()
        others = OPEN_SCHEMA_KEYWORDS - {"additionalProperties"}
        closed = self.root.get("additionalProperties") is False and others.isdisjoint(self.root)
        self.is_open = not closed
        self._order = list(self.properties)
        self._strict = bool(function.get("strict"))

    def may_end(self, index: int) -> bool:
        """Whether no property from number `index` on is required."""
        return self.required.isdisjoint(self._order[index:])

    def json_rule(self, schema: Any, style: Mapping[str, Any]) -> str:
        """The Lark text of JSON by a property's schema; "" if it refers to more of the whole."""
        text = json.dumps(schema)
        if not all(r.startswith(LOCAL_REFERENCES) for r in REFERENCE.findall(text)):
            return ""
        shared = {key: self.root[key] for key in ("$defs", "definitions") if key in self.root}
        own = schema if isinstance(schema, dict) else {}
        told = {**own, **shared, "x-guidance": {**style, "lenient": not self._strict}}
        return f"%json {json.dumps(told)}"
