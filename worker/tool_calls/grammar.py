"""Grammars of tool calls, in llguidance's Lark.

Required calls have the model's own format if its arguments are JSON, else bare JSON. Markers
that are special tokens of the vocabulary are written as token ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from protocol.grammars import JSON_STYLE
from worker.tool_calls.openings import TAILS
from worker.tool_calls.syntax import CallTemplate, Tool

MARKER = regex.compile(r"<\|?[^<>\s]+\|?>|\[[A-Z_]+\]")

# With one of these keywords a schema defines or allows arguments besides its `properties`.
OPEN_SCHEMA_KEYWORDS = frozenset({
    "$ref", "additionalProperties", "allOf", "anyOf", "else", "if", "oneOf", "patternProperties",
    "propertyNames", "then", "unevaluatedProperties",
})  # fmt: skip

# The ids of the vocabulary's special tokens, by their text.
SpecialTokens = Mapping[str, int]


def make_required_call_grammar(
    tools: Sequence[Tool],
    names: Sequence[str],
    call_template: CallTemplate,
    special_tokens: SpecialTokens,
    *,
    parallel: bool,
    think_end: str = "",
) -> str:
    """The grammar of an answer that is a call of one of `names`; if `parallel`, several in a row.

    With `think_end` the answer begins inside a think block.
    """
    functions = named_functions(tools, names)
    repeat = "+" if parallel and call_template.repeatable else ""
    rules = [
        f"start: {'think ' if think_end else ''}call{repeat}",
        "call: " + " | ".join(f"call_{index}" for index in range(len(functions))),
    ]
    if think_end:
        token = special_tokens.get(think_end)
        # In Lark a slash ends a regular expression.
        marker = regex.escape(think_end).replace("/", "\\/")
        in_text = f"think[lazy]: /(.|\\n)*{marker}/"
        rules.append(f"think: /(.|\\n)*/ <[{token}]>" if token is not None else in_text)
    for index, function in enumerate(functions):
        header = to_lark(
            call_template.before + function["name"] + call_template.between, special_tokens
        )
        footer = to_lark(call_template.after, special_tokens)
        rules.append(f"call_{index}: {header} arguments_{index} {footer}")
        rules.append(f"arguments_{index}: %json {json.dumps(arguments_schema(function))}")
    return "\n".join(rules)


def make_optional_call_grammar(
    tools: Sequence[Tool],
    names: Sequence[str],
    special_tokens: SpecialTokens,
    *,
    tails: Sequence[str],
    with_arguments: bool = True,
) -> str:
    """The grammar of a call that the model started by itself, whatever its format.

    The text is the call's name, a line break, its arguments (`with_arguments`: by their schema),
    then anything; or `name_header(tail)` of one of the `tails`, the name, the tail, then anything.
    """
    functions = named_functions(tools, names)
    calls = [f"call_{index}" for index in range(len(functions))]
    named = [f"named_{index}" for index in range(len(tails))]
    rules = [
        f"start: ({' | '.join((*calls, *named))}) ANYTHING?",
        r"ANYTHING: /(.|\n)+/",
        "name: " + " | ".join(json.dumps(function["name"]) for function in functions),
    ]
    for rule, tail in zip(named, tails, strict=True):
        after = f"/{TAILS[tail]}/" if tail in TAILS else to_lark(tail, special_tokens)
        rules.append(f"{rule}: {json.dumps(name_header(tail))} name {after}")
    for rule, function in zip(calls, functions, strict=True):
        header = json.dumps(function["name"] + "\n")
        schema = f" %json {json.dumps(arguments_schema(function))}" if with_arguments else ""
        rules.append(f"{rule}: {header}{schema}")
    return "\n".join(rules)


def name_header(tail: str) -> str:
    """What stands before a name that is not complete, in a grammar; no name has a space."""
    return f"name {tail}\n"


def named_functions(tools: Sequence[Tool], names: Sequence[str]) -> list[dict[str, Any]]:
    """The functions of the tools with these names."""
    wanted = frozenset(names)
    return [tool["function"] for tool in tools if tool["function"]["name"] in wanted]


def arguments_schema(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of a call's arguments.

    Keywords that cannot be enforced are ignored unless the function is `strict`.
    """
    style = {**JSON_STYLE, "lenient": not function.get("strict")}
    return {"type": "object", **close_properties(function["parameters"]), "x-guidance": style}


def close_properties(parameters: dict[str, Any]) -> dict[str, Any]:
    """Allow no additional properties, if the schema names some and does not mention others.

    A function does not read arguments that it does not declare, and weak models invent some.
    """
    if "properties" not in parameters or not OPEN_SCHEMA_KEYWORDS.isdisjoint(parameters):
        return parameters
    return {**parameters, "additionalProperties": False}


def to_lark(text: str, special_tokens: SpecialTokens) -> str:
    """A Lark sequence that matches `text`; its white space is optional."""
    parts: list[str] = []
    end = 0
    for marker in MARKER.finditer(text):
        if (token := special_tokens.get(marker[0])) is not None:
            parts += lark_strings(text[end : marker.start()])
            parts.append(f"<[{token}]>")
            end = marker.end()
    parts += lark_strings(text[end:])
    return " ".join(parts)


def lark_strings(text: str) -> list[str]:
    """Lark strings of the words; each white space character is an optional one of its own."""
    words = regex.findall(r"\s|\S+", text)
    return [f"({json.dumps(w)})?" if w.isspace() else json.dumps(w) for w in words]
