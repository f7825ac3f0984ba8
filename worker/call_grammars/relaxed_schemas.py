"""Schemas of tools that are not strict, without the keywords that no grammar can enforce.

An unusual keyword must not lose a tool: a model calls it as well without. What is dropped is
listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from protocol.messages import ChatPrompt

TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
# Look-around, back references, and word boundaries, which need more than a finite automaton.
UNSUPPORTED = re.compile(r"\((?:\?(?:<?[=!]|P=|>|\())|\\[1-9bBAZzGk]")
ESCAPED_BACKSLASH = re.compile(r"\\\\")
MAX_PATTERN_CHARS = 1000
MAX_DEPTH = 64
# Where a schema has other schemas.
ONE = ("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
SEVERAL = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")


class RelaxedSchema:
    """A schema of which only what a grammar can enforce is left: `schema`; `dropped`: the rest."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self.dropped: list[str] = []
        self.schema: dict[str, Any] = self._relax(root, "", 0)

    def _relax(self, schema: Any, path: str, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return schema
        relaxed = {key: value for key, value in schema.items() if not self._drops(key, value, path)}
        for key, value in relaxed.items():
            here = f"{path}.{key}"
            if key in NAMED and isinstance(value, dict):
                relaxed[key] = {
                    name: self._relax(each, f"{here}.{name}", depth + 1)
                    for name, each in value.items()
                    if key != "patternProperties"
                    or not self._drops("pattern", name, f"{here}.{name}")
                }
            elif key in ONE and isinstance(value, dict):
                relaxed[key] = self._relax(value, here, depth + 1)
            elif key in SEVERAL and isinstance(value, list):
                relaxed[key] = [
                    self._relax(each, f"{here}[{index}]", depth + 1)
                    for index, each in enumerate(value)
                ]
        return relaxed

    def _drops(self, key: str, value: Any, path: str) -> bool:
        """Whether a keyword cannot be enforced, which is noted then."""
        match key, value:
            case "pattern", str(pattern):
                dropped = not is_supported(pattern)
            case "$ref", str(reference):
                dropped = not self._resolves(reference)
            case "type", str(name):
                dropped = name not in TYPES
            case "type", list(names):
                dropped = not all(isinstance(name, str) and name in TYPES for name in names)
            case _:
                dropped = False
        if dropped:
            self.dropped.append(f"{path}.{key}")
        return dropped

    def _resolves(self, reference: str) -> bool:
        """Whether a reference is to a part of this schema; an anchor is not looked up."""
        if not reference.startswith("#"):
            return False
        if not reference.startswith("#/"):
            return True
        part: Any = self._root
        for step in reference.removeprefix("#/").split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(part, dict) and name in part:
                part = part[name]
            elif isinstance(part, list) and name.isdecimal() and int(name) < len(part):
                part = part[int(name)]
            else:
                return "%" in step
        return True


def is_supported(pattern: str) -> bool:
    """Whether a pattern can be part of a grammar, as far as it can be told cheaply."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return True
    if UNSUPPORTED.search(ESCAPED_BACKSLASH.sub("", pattern)):
        return False
    try:
        re.compile(pattern.replace(r"\p", "p").replace(r"\P", "P"))
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def list_relaxed(prompt: ChatPrompt, names: Sequence[str]) -> Iterator[str]:
    """The paths of what is not enforced of the schemas of these tools, in the request."""
    for index, tool in enumerate(prompt.tools):
        function = tool["function"]
        if function["name"] in names and not function.get("strict"):
            for path in RelaxedSchema(function["parameters"]).dropped:
                yield f"{prompt.schema_path(index)}{path}"
