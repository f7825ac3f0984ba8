"""How calls begin: what stands before a call's name, and after it.

From where a model opens a call its name is held to the declared names, by a grammar; so the
beginning must be known before the call is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import regex

from worker.call_readers.declared_tools import SPACE, DeclaredTools
from worker.call_readers.json_calls import ARGUMENT_KEYS, NAME_KEYS, OTHER_KEYS, JsonObjects
from worker.tool_calls.syntax import CallForm, CallSyntax

NAME = "{name}"
# A call that is an object, with a key for its name or with its name as the key.
JSON_BEFORE = rf"\{{{SPACE}\"(?:{'|'.join(sorted(NAME_KEYS))})\"{SPACE}:{SPACE}\""
KEYED_BEFORE = rf"\{{{SPACE}\""
# The name is in the header of a message, which ends at white space or a marker.
HEADER_TAIL = "header"
JSON_TAIL, KEYED_TAIL = '"', '":'
NEXT_KEYS = "|".join(sorted(ARGUMENT_KEYS | OTHER_KEYS))
# The tails that are no literal text, as regular expressions. An object without arguments does not
# end here: a model that is held to a name writes them, if only empty ones.
JSON_SPACE = r"[ \t\r\n]*"
TAILS = {
    JSON_TAIL: rf'"{JSON_SPACE},{JSON_SPACE}"({NEXT_KEYS})"{JSON_SPACE}:',
    KEYED_TAIL: rf'"{JSON_SPACE}:',
}


@dataclass(frozen=True, slots=True)
class Opening:
    """A pattern of what is `before` a name, and of the `whole` of name and tail.

    `tail` is what follows the name; a space in it is optional.
    """

    before: regex.Pattern[str]
    whole: regex.Pattern[str]
    tail: str


class PartialName(NamedTuple):
    """The text from where a call's name begins, and what follows the name."""

    text: str
    tail: str


def find_partial_name(openings: Sequence[Opening], text: str) -> PartialName | None:
    """The name that begins in the text of a section, until its tail is complete."""
    for opening in openings:
        before = opening.before.match(text)
        if before is not None and opening.whole.match(text, before.end()) is None:
            return PartialName(text[before.end() :], opening.tail)
    return None


def openings_of(syntax: CallSyntax, tools: DeclaredTools) -> list[Opening]:
    """How the calls of a syntax begin, as far as it can be told from other text."""
    return [
        Opening(
            regex.compile(rf"{SPACE}(?:\[{SPACE})?{before}"),
            regex.compile(tools.pattern(NAME) + (TAILS.get(tail) or tools.pattern(tail))),
            tail,
        )
        for form in syntax.forms
        for before, tail in parts_of(form, tools)
    ]


def tails_of(syntaxes: Sequence[CallSyntax]) -> list[str]:
    """The tails of all openings, each once."""
    nothing = DeclaredTools([], [])
    parts = [p for syntax in syntaxes for form in syntax.forms for p in parts_of(form, nothing)]
    tails = [HEADER_TAIL for syntax in syntaxes if syntax.channels]
    return list(dict.fromkeys([*tails, *(tail for _, tail in parts)]))


def parts_of(form: CallForm, tools: DeclaredTools) -> list[tuple[str, str]]:
    """The pattern before the name and the tail after it, for each way to begin a call.

    A name that begins a call without anything before it is known by its first character.
    """
    match form:
        case JsonObjects(keyed):
            return [(KEYED_BEFORE, KEYED_TAIL) if keyed else (JSON_BEFORE, JSON_TAIL)]
        case _:
            headers = [header.partition(NAME) for header in form.headers]
            return [
                (tools.pattern(before) or r"(?=\w)", after.partition("{")[0])
                for before, _, after in headers
                if "{" not in before
            ]


def literal_openings(syntax: CallSyntax) -> list[tuple[str, str]]:
    """The texts before a name and the tails after it, as a model would write them."""
    openings: list[tuple[str, str]] = []
    for form in syntax.forms:
        match form:
            case JsonObjects(keyed):
                openings.append(('{"', KEYED_TAIL) if keyed else ('{"name": "', '", "arguments": '))
            case _:
                headers = (header.partition(NAME) for header in form.headers)
                openings += [
                    (before.replace("{attributes}", " "), after.partition("{")[0])
                    for before, _, after in headers
                ]
    return openings
