"""The tools that a request declares, as readers of calls need them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import regex

Tool = dict[str, Any]
# An argument's schema may refer to others; deeper ones declare nothing.
MAX_DEPTH = 8
CACHED_TEMPLATES = 512
# White space that a syntax allows between its parts.
SPACE = r"\s{0,64}"
PLACEHOLDERS = {
    "{key}": r"(?P<key>(?!/)[^<>\"'\n]{1,256})",
    "{id}": r"(?P<id>[\w.:#-]{1,128})",
    "{string}": r"(?P<string>true|false)",
    "{type}": r"(?P<type>\w{1,16})",
    "{attributes}": r"[^<>]{0,256}?",
    " ": SPACE,
    '"': "[\"']?",
}
PLACEHOLDER = regex.compile(r"(\{\w+\}|[ \"])")


class DeclaredTools:
    """The declared tools that may be called, by `names`."""

    def __init__(self, tools: Sequence[Tool], names: Sequence[str]) -> None:
        self.names = frozenset(names)
        longest_first = sorted(names, key=len, reverse=True)
        self._name = f"(?P<name>{'|'.join(map(regex.escape, longest_first)) or '(?!)'})"
        self._parameters = {
            tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools
        }

    def pattern(self, *templates: str) -> str:
        """The regular expression of any of these texts, in which `{name}` is a declared name.

        A space stands for optional white space, `"` for an optional quotation mark.
        """
        return "|".join(map(self._expression, templates))

    def compile(self, *templates: str) -> regex.Pattern[str]:
        """The compiled `pattern`."""
        return regex.compile(self.pattern(*templates))

    def parameters(self, name: str) -> Mapping[str, Any]:
        """The schema of the tool's arguments."""
        parameters: Mapping[str, Any] = self._parameters.get(name, {})
        return parameters

    def schema(self, name: str, key: str) -> Any:
        """The schema of the tool's argument `key`; None if it declares none."""
        properties = self.parameters(name).get("properties")
        return properties.get(key) if isinstance(properties, dict) else None

    def types(self, name: str, key: str) -> frozenset[str]:
        """The JSON types that the tool declares for its argument `key`; empty if none."""
        return frozenset(types_of(self.schema(name, key), self.parameters(name)))

    def _expression(self, template: str) -> str:
        return self._name.join(split_at_names(template))


@functools.lru_cache(CACHED_TEMPLATES)
def split_at_names(template: str) -> tuple[str, ...]:
    """The regular expressions of the parts of a template before, between and after `{name}`.

    They are kept: the formats' templates are the same for each request.
    """
    return tuple(
        "".join(PLACEHOLDERS.get(part) or regex.escape(part) for part in PLACEHOLDER.split(literal))
        for literal in template.split("{name}")
    )


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """The JSON types that a schema allows by name, value or alternative."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return set()
    named = schema.get("type")
    types = {named} if isinstance(named, str) else set(named if isinstance(named, list) else ())
    values = schema.get("enum")
    values = list(values) if isinstance(values, list) else []
    if "const" in schema:
        values.append(schema["const"])
    if not types:
        types.update(map(type_of, values))
    for keyword in ("anyOf", "oneOf", "allOf"):
        for choice in schema.get(keyword) or ():
            types |= types_of(choice, root, depth + 1)
    return types | types_of(resolve(schema.get("$ref"), root), root, depth + 1)


def resolve(reference: Any, root: Mapping[str, Any]) -> Any:
    """What a reference inside the schema `root` refers to; None if nothing."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    steps = [step.replace("~1", "/").replace("~0", "~") for step in reference[2:].split("/")]
    found: Any = root
    return functools.reduce(
        lambda at, step: at.get(step) if isinstance(at, dict) else None, steps, found
    )


def type_of(value: Any) -> str:
    """The JSON type of a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
