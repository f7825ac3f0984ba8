"""The grammar of a call that the model starts by itself, from its name on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import regex

from worker.call_grammars.argument_schemas import arguments_schema, named_functions
from worker.call_grammars.lark_text import (
    SPACE,
    SpecialTokens,
    any_of,
    to_exact,
    to_lark,
    to_template,
)
from worker.call_grammars.sections import SectionCalls, native_form
from worker.tool_calls.openings import HEADER_TAIL, TAILS, Header, OfferedHeaders
from worker.tool_calls.syntax import Tool

# In the text after a name: white space, and a quotation mark, which is the one before the name.
TAIL_PARTS = {" ": SPACE, '"': r"/[\"']/"}


def make_optional_call_grammar(
    tools: Sequence[Tool],
    names: Sequence[str],
    special_tokens: SpecialTokens,
    *,
    headers: Sequence[OfferedHeaders],
    with_arguments: bool = True,
) -> str:
    """The grammar of a call that the model started by itself, whatever its format.

    The text is the call's name, a line break, its arguments (`with_arguments`: by their schema),
    then anything; or `begin_header` of one of the `headers`, the header, with arguments that are no
    JSON these, too, if the tool is strict, then anything.
    """
    functions = named_functions(tools, names)
    calls = [f"call_{index}" for index in range(len(functions))]
    named = [f"named_{index}" for index in range(len(headers))]
    rules = [
        f"start: ({' | '.join((*calls, *named))}) ANYTHING?",
        r"ANYTHING: /(.|\n)+/",
        "name: " + " | ".join(json.dumps(function["name"]) for function in functions),
    ]
    for rule, offered in zip(named, headers, strict=True):
        begun = json.dumps(begin_header(offered.headers))
        text_rules = make_text_rules(f"{rule}_call", functions, offered, special_tokens)
        if not text_rules:
            whole = [header_rule(header, special_tokens) for header in offered.headers]
            rules.append(f"{rule}: {begun} ({' | '.join(whole)})")
            continue
        rules += [f"{rule}: {begun} {rule}_call", *text_rules]
    for rule, function in zip(calls, functions, strict=True):
        header = json.dumps(function["name"] + "\n")
        schema = f" %json {json.dumps(arguments_schema(function))}" if with_arguments else ""
        rules.append(f"{rule}: {header}{schema}")
    return "\n".join(rules)


def make_text_rules(
    rule: str,
    functions: Sequence[dict[str, Any]],
    offered: OfferedHeaders,
    special_tokens: SpecialTokens,
) -> list[str]:
    """The Lark rule `rule` and others: a call from its header on; none where it has JSON."""
    if offered.syntax is None or offered.form is not native_form(offered.syntax):
        return []
    calls = SectionCalls(offered.syntax, special_tokens, f"{rule}_t", required=False)
    rules, choices = list[str](), list[str]()
    for index, function in enumerate(functions):
        own, name = f"{rule}_{index}", json.dumps(function["name"])
        ways = any_of(whole_rule(header, name, special_tokens) for header in offered.headers)
        choices.append(own)
        if not function.get("strict"):
            # Its arguments are given as the model writes them, in any order.
            rules.append(f"{own}: {ways}")
            continue
        rules.append(f"{own}: {ways} {own}_rest")
        rules += calls.make_rest(f"{own}_rest", function)
        if offered.json_headers:
            ways = any_of(whole_rule(each, name, special_tokens) for each in offered.json_headers)
            choices.append(f"{own}_json")
            rules.append(f"{own}_json: {ways} %json {json.dumps(arguments_schema(function))}")
    return [f"{rule}: {any_of(choices)}", *rules, *calls.take()]


def whole_rule(header: Header, name: str, special_tokens: SpecialTokens) -> str:
    """The Lark text of a header with all that is before the arguments."""
    tail = to_tail(header.tail, special_tokens)
    rest = to_template(header.rest, special_tokens)
    return f"{prefix_rule(header, special_tokens)}{name} {tail} {rest}"


def header_rule(header: Header, special_tokens: SpecialTokens) -> str:
    """The Lark text of a header."""
    return f"{prefix_rule(header, special_tokens)}name {to_tail(header.tail, special_tokens)}"


def prefix_rule(header: Header, special_tokens: SpecialTokens) -> str:
    """The Lark text of what may be before a name."""
    return f"({to_lark(header.prefix, special_tokens)})? " if header.prefix else ""


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
