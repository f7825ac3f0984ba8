"""The schema that constrains a call's arguments."""

from __future__ import annotations

from typing import Any

import pytest

from worker.call_grammars.argument_schemas import arguments_schema

WITH_PROPERTIES = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize("parameters", [WITH_PROPERTIES, {"type": "object", "properties": {}}])
def test_only_arguments_that_the_function_declares_are_allowed(parameters: dict[str, Any]) -> None:
    schema = arguments_schema({"name": "look", "parameters": parameters})
    assert schema["additionalProperties"] is False
    assert schema["properties"] == parameters["properties"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object"},
        {**WITH_PROPERTIES, "additionalProperties": {"type": "integer"}},
        {**WITH_PROPERTIES, "allOf": [{"properties": {"day": {"type": "string"}}}]},
    ],
)
def test_a_schema_that_allows_other_arguments_stays_unchanged(parameters: dict[str, Any]) -> None:
    schema = arguments_schema({"name": "look", "parameters": parameters})
    assert {name: schema[name] for name in parameters} == parameters
    assert schema.get("additionalProperties") == parameters.get("additionalProperties")
