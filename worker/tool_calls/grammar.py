"""The grammar of an answer that must call a tool, in llguidance's Lark.

A model writes its calls in its own syntax where their arguments are JSON, else as bare
JSON. Markers that are special tokens of the vocabulary are asked for as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from worker.structured_output.llguidance_source import JSON_STYLE
from worker.tool_calls.syntax import CallTemplate, Tool

MARKER = regex.compile(r"<\|?[^<>\s]+\|?>|\[[A-Z_]+\]")

# Where one of these stands, further arguments are asked for or named elsewhere.
OPENING_KEYWORDS = frozenset({
    "$ref", "additionalProperties", "allOf", "anyOf", "else", "if", "oneOf", "patternProperties",
    "propertyNames", "then", "unevaluatedProperties",
})  # fmt: skip

# The ids of the vocabulary's special tokens, by how they are written.
SpecialTokens = Mapping[str, int]


def require_call(
    tools: Sequence[Tool],
    names: Sequence[str],
    written: CallTemplate,
    special: SpecialTokens,
    *,
    parallel: bool,
    think_end: str = "",
) -> str:
    """The grammar of a call of one of `names`, or with `parallel` of several in a row.

    With `think_end` the answer begins inside a think block.
    """
    functions = [tool["function"] for tool in tools if tool["function"]["name"] in names]
    rules = [
        f"start: {'think ' if think_end else ''}call{'+' if parallel and written.repeats else ''}",
        "call: " + " | ".join(f"call_{place}" for place in range(len(functions))),
    ]
    if think_end:
        token = special.get(think_end)
        rules.append(f"think: /(.|\\n)*/ <[{token}]>" if token is not None else "think: THOUGHT")
        rules.append(f"THOUGHT[lazy]: /(.|\\n)*{regex.escape(think_end)}/")
    for place, function in enumerate(functions):
        before = spell(written.before + function["name"] + written.between, special)
        rules.append(f"call_{place}: {before} arguments_{place} {spell(written.after, special)}")
        rules.append(f"arguments_{place}: %json {json.dumps(arguments_schema(function))}")
    return "\n".join(rules)


def offer_calls(tools: Sequence[Tool], names: Sequence[str]) -> str:
    """The grammar from a call's name on: the name, a line break, its arguments, then anything."""
    functions = [tool["function"] for tool in tools if tool["function"]["name"] in names]
    places = range(len(functions))
    rules = [f"start: ({' | '.join(f'call_{place}' for place in places)}) /(.|\\n)*/"]
    for place, function in enumerate(functions):
        head = json.dumps(function["name"] + "\n")
        rules.append(f"call_{place}: {head} %json {json.dumps(arguments_schema(function))}")
    return "\n".join(rules)


def arguments_schema(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of a call's arguments; what of it cannot be held to is left out unless strict."""
    style = {**JSON_STYLE, "lenient": not function.get("strict")}
    return {"type": "object", **closed(function["parameters"]), "x-guidance": style}


def closed(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters and no others, where the schema names some and says nothing of others.

    A function has no use for an argument that it does not name, and weak models make some up.
    """
    if "properties" not in parameters or not OPENING_KEYWORDS.isdisjoint(parameters):
        return parameters
    return {**parameters, "additionalProperties": False}


def spell(text: str, special: SpecialTokens) -> str:
    """`text` as a sequence of Lark; white space in it may be left out."""
    parts: list[str] = []
    place = 0
    for marker in MARKER.finditer(text):
        if (token := special.get(marker[0])) is not None:
            parts += plain(text[place : marker.start()])
            parts.append(f"<[{token}]>")
            place = marker.end()
    parts += plain(text[place:])
    return " ".join(parts)


def plain(text: str) -> list[str]:
    """Words as strings of Lark, each blank or line break as one that may be left out."""
    words = regex.findall(r"\s|\S+", text)
    return [f"({json.dumps(w)})?" if w.isspace() else json.dumps(w) for w in words]
