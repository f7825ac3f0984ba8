"""Converts arguments that were written as text to JSON, by the types that their tool declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import regex

from worker.call_readers.call_writer import dump_json
from worker.call_readers.declared_tools import resolve, types_of
from worker.call_readers.literals import parse_literal
from worker.call_readers.source import Unreadable

CDATA = regex.compile(r"\s*<!\[CDATA\[(.*)\]\]>\s*", regex.DOTALL)
NOT_STRINGS = frozenset({"array", "boolean", "integer", "null", "number", "object"})
CONTAINERS = {"array": "[", "object": "{"}
MAX_DEPTH = 32


def convert(text: str, types: frozenset[str]) -> str:
    """The JSON of a value written as `text`; `types`: what is declared, empty if nothing.

    A value that may be a string is one, whatever it looks like. A value that is not of its type
    stays as it stands.
    """
    if "string" in types and not is_container(text, types):
        return dump_json(text)
    stripped = text.strip()
    try:
        json.loads(stripped, parse_constant=refuse)
        return stripped
    except (ValueError, RecursionError):
        pass
    try:
        value = parse_literal(stripped)
        if not isinstance(value, str) or stripped[:1] in "\"'":
            return dump_json(value)
    except (Unreadable, ValueError, RecursionError):
        pass
    return dump_json(text)


def is_container(text: str, types: frozenset[str]) -> bool:
    """Whether the text is JSON of an array or object, and one is declared besides a string."""
    opening = text.lstrip()[:1]
    if not any(kind in types and opening == first for kind, first in CONTAINERS.items()):
        return False
    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def refuse(constant: str) -> None:
    """Refuse what Python takes for JSON and nobody else does.

    Raises:
        ValueError: always.
    """
    raise ValueError(constant)


def unwrap_cdata(text: str) -> str:
    """The text inside a CDATA section; any other text unchanged."""
    match = CDATA.fullmatch(text)
    return match[1] if match else text


def parse_nested(
    text: str, schema: Any, root: Mapping[str, Any], prefix: str, depth: int = 0
) -> Any:
    """The value of tagged items: `<item>` of an array, any other tag of an object.

    `prefix` is before each tag.
    """
    if isinstance(schema, dict) and "$ref" in schema:
        schema = resolve(schema["$ref"], root)
    types = frozenset(types_of(schema, root))
    tag = regex.compile(rf"{regex.escape(prefix)}<([^<>/\s][^<>\s]*)>")
    if depth > MAX_DEPTH or (tag.match(text) is None and not (not text and types)):
        return json.loads(convert(text, types))
    if not text:
        empty: dict[frozenset[str], Any] = {frozenset({"array"}): [], frozenset({"object"}): {}}
        return empty.get(types - {"null"}, "")
    members: list[tuple[str, str]] = []
    position = 0
    while (opening := tag.match(text, position)) is not None:
        end = matching_close(text, opening.end(), opening[1], prefix)
        if end < 0:
            return text
        members.append((opening[1], text[opening.end() : end]))
        position = end + len(f"{prefix}</{opening[1]}>")
    if text[position:].strip():
        return text
    parts = schema if isinstance(schema, dict) else {}
    if "array" in types or (not types and all(key == "item" for key, _ in members)):
        items = parts.get("items")
        return [parse_nested(value, items, root, prefix, depth + 1) for _, value in members]
    properties = parts.get("properties") or {}
    return {
        key: parse_nested(value, properties.get(key), root, prefix, depth + 1)
        for key, value in members
    }


def matching_close(text: str, start: int, name: str, prefix: str) -> int:
    """Where the tag that closes `name` is, past inner ones of the same name; -1: nowhere."""
    opening, closing = f"{prefix}<{name}>", f"{prefix}</{name}>"
    depth, position = 1, start
    while True:
        close = text.find(closing, position)
        inner = text.find(opening, position)
        if close < 0:
            return -1
        if 0 <= inner < close:
            depth, position = depth + 1, inner + len(opening)
            continue
        depth -= 1
        if not depth:
            return close
        position = close + len(closing)
