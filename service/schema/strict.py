"""OpenAI's rules for strict JSON schemas, which `response_format` and tools share.

The root is an object. Every object has `additionalProperties: false`, and `required` lists all
its properties. Subschemas are found under the keywords listed here; the target of a `$ref` is
checked where it is defined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

OBJECT = "object"
# Keywords whose value is an object of subschemas, and those whose value is a list of them.
NAMED_SUBSCHEMAS = ("properties", "$defs", "definitions")
LISTED_SUBSCHEMAS = ("anyOf", "allOf", "oneOf", "prefixItems", "items")

Path = tuple[str, ...]


def find_violation(schema: dict[str, Any]) -> str | None:
    """The first violation of the strict rules in `schema`; None if it follows them all."""
    return next(_violations(schema), None)


def _violations(schema: dict[str, Any]) -> Iterator[str]:
    if "anyOf" in schema or ("$ref" not in schema and schema.get("type") != OBJECT):
        yield "the schema must be of type 'object' at its root"
    for path, part in _objects(schema, ()):
        where = f"in context=({', '.join(map(repr, path))})"
        properties = part.get("properties", {})
        required = part.get("required", [])
        if part.get("additionalProperties") is not False:
            yield f"{where}, 'additionalProperties' is required to be supplied and to be false"
        if not isinstance(properties, dict) or not isinstance(required, list):
            yield f"{where}, 'properties' must be an object and 'required' an array"
        elif missing := [name for name in properties if name not in required]:
            yield f"{where}, 'required' must name every property; missing: {missing[0]!r}"


def _objects(schema: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every subschema of `schema` that describes an object, with its path."""
    if not isinstance(schema, dict):
        return
    if _is_object(schema):
        yield path, schema
    for key, child in _subschemas(schema):
        yield from _objects(child, (*path, *key))


def _is_object(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    return kind == OBJECT or "properties" in schema or (isinstance(kind, list) and OBJECT in kind)


def _subschemas(schema: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    for keyword in NAMED_SUBSCHEMAS:
        children = schema.get(keyword)
        for name, child in children.items() if isinstance(children, dict) else ():
            yield (keyword, name), child
    for keyword in LISTED_SUBSCHEMAS:
        children = schema.get(keyword)
        for index, child in enumerate(children if isinstance(children, list) else ()):
            yield (keyword, str(index)), child
    yield ("items",), schema.get("items")
