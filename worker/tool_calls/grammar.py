"""Grammars of tool calls, in llguidance's Lark.

Required calls have the model's own format if its arguments are JSON, else bare JSON. Markers
that are special tokens of the vocabulary are token ids or their text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from protocol.grammars import JSON_STYLE
from worker.tool_calls.openings import HEADER_TAIL, TAILS, Header, literal_openings
from worker.tool_calls.relaxed_schemas import RelaxedSchema
from worker.tool_calls.syntax import CallSyntax, CallTemplate, Tool, footer_of, texts_of

# Any text without the markers that are tokens.
FREE_TEXT = r"/(.|\n)*/"
CALL_ID = r"/[\w.:-]{1,64}/"
# White space that a syntax allows, and a quotation mark: it is the one before the name.
TAIL_PARTS = {" ": r"/[ \t\r\n]{0,8}/", '"': r"/[\"']/"}
PATTERN_CHARACTERS = regex.compile(r"[.^$*+?{}\[\]\\|()/\"]")

# With one of these keywords a schema defines or allows arguments besides its `properties`.
OPEN_SCHEMA_KEYWORDS = frozenset({
    "$ref", "additionalProperties", "allOf", "anyOf", "else", "if", "oneOf", "patternProperties",
    "propertyNames", "then", "unevaluatedProperties",
})  # fmt: skip

# The ids of the vocabulary's special tokens, by their text.
SpecialTokens = Mapping[str, int]


def make_call_rules(
    tools: Sequence[Tool],
    names: Sequence[str],
    call_template: CallTemplate,
    special_tokens: SpecialTokens,
    *,
    parallel: bool,
) -> list[str]:
    """The Lark rule `calls` and others: a call of one of `names`; if `parallel`, several in a row.

    The arguments keep to their schemas.
    """
    functions = named_functions(tools, names)
    repeat = ' ("\\n"? "\\n"? call)*' if parallel and call_template.repeatable else ""
    rules = [
        f"calls: call{repeat}",
        "call: " + " | ".join(f"call_{index}" for index in range(len(functions))),
    ]
    for index, function in enumerate(functions):
        header = to_lark(
            call_template.before + function["name"] + call_template.between, special_tokens
        )
        footer = to_lark(call_template.after, special_tokens)
        rules.append(f"call_{index}: {header} arguments_{index} {footer}")
        rules.append(f"arguments_{index}: %json {json.dumps(arguments_schema(function))}")
    return rules


def make_section_rules(
    syntaxes: Sequence[CallSyntax],
    tools: Sequence[Tool],
    names: Sequence[str],
    special_tokens: SpecialTokens,
    *,
    parallel: bool,
) -> list[str]:
    """The Lark rule `calls` and others: a section of one of `syntaxes`, whose name is held.

    The arguments are not JSON, and free.
    """
    functions = named_functions(tools, names)
    sections = [f"section_{index}" for index in range(len(syntaxes))]
    rules = [
        "calls: section" + (' ("\\n"? "\\n"? section)*' if parallel else ""),
        "section: " + " | ".join(sections),
        "name: " + " | ".join(json.dumps(function["name"]) for function in functions),
    ]
    for rule, syntax in zip(sections, syntaxes, strict=True):
        headers = " | ".join(
            to_header(before, tail, special_tokens) for before, tail in literal_openings(syntax)
        )
        start = to_lark(syntax.start, special_tokens)
        rules.append(f'{rule}: {start} "\\n"? "["? ({headers}) {rule}_rest')
        ids = sorted(markers_of(syntax, special_tokens))
        inner = "".join(f" | <[{id}]>" for id in ids)
        rules.append(f"{rule}_rest: ({FREE_TEXT}{inner})* {rule}_end")
        end = syntax.end or footer_of(syntax)
        rules += until_rules(f"{rule}_end", end, special_tokens) if end else [f'{rule}_end: ""']
    return rules


def make_optional_call_grammar(
    tools: Sequence[Tool],
    names: Sequence[str],
    special_tokens: SpecialTokens,
    *,
    headers: Sequence[tuple[Header, ...]],
    with_arguments: bool = True,
) -> str:
    """The grammar of a call that the model started by itself, whatever its format.

    The text is the call's name, a line break, its arguments (`with_arguments`: by their schema),
    then anything; or `begin_header` of one of the `headers`, the header, then anything.
    """
    functions = named_functions(tools, names)
    calls = [f"call_{index}" for index in range(len(functions))]
    named = [f"named_{index}" for index in range(len(headers))]
    rules = [
        f"start: ({' | '.join((*calls, *named))}) ANYTHING?",
        r"ANYTHING: /(.|\n)+/",
        "name: " + " | ".join(json.dumps(function["name"]) for function in functions),
    ]
    for rule, ways in zip(named, headers, strict=True):
        whole = " | ".join(header_rule(header, special_tokens) for header in ways)
        rules.append(f"{rule}: {json.dumps(begin_header(ways))} ({whole})")
    for rule, function in zip(calls, functions, strict=True):
        header = json.dumps(function["name"] + "\n")
        schema = f" %json {json.dumps(arguments_schema(function))}" if with_arguments else ""
        rules.append(f"{rule}: {header}{schema}")
    return "\n".join(rules)


def header_rule(header: Header, special_tokens: SpecialTokens) -> str:
    """The Lark text of a header."""
    prefix = f"({to_lark(header.prefix, special_tokens)})? " if header.prefix else ""
    return f"{prefix}name {to_tail(header.tail, special_tokens)}"


def to_tail(tail: str, special_tokens: SpecialTokens) -> str:
    """The Lark text of what follows a name."""
    if tail == HEADER_TAIL:
        return (
            "(" + " | ".join([r"/[\s<]/", *(f"<[{id}]>" for id in special_tokens.values())]) + ")"
        )
    if tail in TAILS:
        return f"/{TAILS[tail]}/"
    parts = filter(None, regex.split(r'([ "])', tail))
    return " ".join(TAIL_PARTS.get(part) or to_exact(part, special_tokens) for part in parts)


def begin_header(headers: Sequence[Header]) -> str:
    """What stands before a header that is not complete, in a grammar; no name has a space."""
    ways = " ".join(f"{header.prefix}.{header.tail}" for header in headers)
    return f"header {ways}\n"


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


def to_header(before: str, tail: str, special_tokens: SpecialTokens) -> str:
    """A Lark sequence of what is before a name (perhaps with an id), the name, and the tail."""
    first, id, last = before.partition("{id}")
    parts = [to_lark(first, special_tokens), CALL_ID if id else "", to_lark(last, special_tokens)]
    return " ".join(filter(None, [*parts, "name", to_lark(tail, special_tokens)]))


def until_rules(rule: str, marker: str, special_tokens: SpecialTokens) -> list[str]:
    """The Lark rules of any text up to the first `marker`, and of the marker.

    A vocabulary may have the marker as a token, and spell it, too.
    """
    spelled = f"{rule}_text[lazy]: /(.|\\n)*{to_pattern(marker)}/"
    token = special_tokens.get(marker)
    if token is not None:
        return [f"{rule}: {FREE_TEXT} <[{token}]> | {rule}_text", spelled]
    if split_markers(marker, special_tokens)[0] in special_tokens:
        return [f"{rule}: {FREE_TEXT} {to_lark(marker, special_tokens)} | {rule}_text", spelled]
    return [f"{rule}: {rule}_text", spelled]


def to_pattern(text: str) -> str:
    """A regular expression of Lark that matches `text`."""
    escaped: str = PATTERN_CHARACTERS.sub(r"\\\g<0>", text)
    return escaped.replace("\n", r"\n")


def markers_of(syntax: CallSyntax, special_tokens: SpecialTokens) -> set[int]:
    """The tokens that a syntax has inside of a section."""
    texts = "\0".join(texts_of(syntax))
    return {id for text, id in special_tokens.items() if text in texts and text != syntax.end}


def to_lark(text: str, special_tokens: SpecialTokens) -> str:
    """A Lark sequence that matches `text`; its white space is optional.

    Answers are parsed as text, so a marker that is a token may also be spelled.
    """
    parts: list[str] = []
    for piece in split_markers(text, special_tokens):
        is_token = piece in special_tokens
        parts += [to_piece(piece, special_tokens)] if is_token else lark_strings(piece)
    return " ".join(parts)


def to_exact(text: str, special_tokens: SpecialTokens) -> str:
    """A Lark sequence that matches `text` with all of its white space."""
    return " ".join(
        to_piece(piece, special_tokens) for piece in split_markers(text, special_tokens)
    )


def to_piece(piece: str, special_tokens: SpecialTokens) -> str:
    """The Lark text of a marker that may be a token, or of other text."""
    token = special_tokens.get(piece)
    return json.dumps(piece) if token is None else f"(<[{token}]> | {json.dumps(piece)})"


def split_markers(text: str, special_tokens: SpecialTokens) -> list[str]:
    """The text in pieces: the markers that are tokens, and what is between."""
    markers = [marker for marker in special_tokens if marker in text]
    if not markers:
        return [text] if text else []
    pattern = "|".join(regex.escape(each) for each in sorted(markers, key=len, reverse=True))
    return list(filter(None, regex.split(f"({pattern})", text)))


def lark_strings(text: str) -> list[str]:
    """Lark strings of the words; each white space character is an optional one of its own."""
    words = regex.findall(r"\s|\S+", text)
    return [f"({json.dumps(w)})?" if w.isspace() else json.dumps(w) for w in words]
