"""The grammar of a call that the model starts by itself, from its name on."""

from __future__ import annotations

import json
from collections.abc import Sequence

import regex

from worker.call_grammars.argument_schemas import arguments_schema, named_functions
from worker.call_grammars.lark_text import SPACE, SpecialTokens, to_exact, to_lark
from worker.tool_calls.openings import HEADER_TAIL, TAILS, Header
from worker.tool_calls.syntax import Tool

# In the text after a name: white space, and a quotation mark, which is the one before the name.
TAIL_PARTS = {" ": SPACE, '"': r"/[\"']/"}


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
