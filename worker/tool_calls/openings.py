"""How calls begin: what stands before a call's name, and after it.

From where a model opens a call its name is held to the declared names, by a grammar; so the
beginning must be known before the call is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import regex

from worker.call_readers.declared_tools import PLACEHOLDERS, SPACE, DeclaredTools
from worker.call_readers.json_calls import (
    ARGUMENT_KEYS,
    INNER_KEYS,
    NAME_KEYS,
    OTHER_KEYS,
    JsonObjects,
)
from worker.call_readers.literal_calls import LiteralArguments
from worker.call_readers.tagged_calls import TaggedArguments
from worker.tool_calls.syntax import CallForm, CallSyntax

NAME = "{name}"
# A name that begins a call without anything before it is known by its first character.
BARE_NAME = r"(?=\w)"
OPTIONAL_MARK, MARK = PLACEHOLDERS['"'], "[\"']"
PLACEHOLDER = regex.compile(r"\{(?:attributes|id|key|string|type)\}")
# Between two calls of a section.
SEPARATORS = regex.compile(r"[\s,;]{0,64}")


def json_key(keys: frozenset[str]) -> str:
    """The pattern of one of the keys of an object, and of what is before its value."""
    return rf"\"(?:{'|'.join(sorted(keys))})\"{SPACE}:{SPACE}"


# A call that is an object, with a key for its name or with its name as the key. The name may be
# in an inner object, and keys of another kind before it.
JSON_OTHER = rf"{json_key(OTHER_KEYS)}(?:\"[^\"\\]{{0,128}}\"|\d{{1,9}}){SPACE},{SPACE}"
JSON_BEFORE = (
    rf"\{{{SPACE}(?:{JSON_OTHER}){{0,4}}(?:{json_key(INNER_KEYS)}\{{{SPACE})?"
    rf"{json_key(NAME_KEYS | INNER_KEYS)}\""
)
KEYED_BEFORE = rf"\{{{SPACE}\""
# The tails that are no literal text: the header of a message ends at white space or a marker; an
# object without arguments does not end after its name: a model that is held to a name writes
# them, if only empty ones.
HEADER_TAIL, JSON_TAIL, KEYED_TAIL = "header", "object", "key"
JSON_SPACE = r"[ \t\r\n]*"
TAILS = {
    JSON_TAIL: rf'"{JSON_SPACE},{JSON_SPACE}"('
    f'{"|".join(sorted(ARGUMENT_KEYS | OTHER_KEYS))})"{JSON_SPACE}:',
    KEYED_TAIL: rf'"{JSON_SPACE}:',
}


class Header(NamedTuple):
    """A way to write a name: what may be before it, and what follows; a space is optional.

    `rest` is what follows the tail before the arguments, with placeholders.
    """

    prefix: str
    tail: str
    rest: str = ""


@dataclass(frozen=True, slots=True)
class Opening:
    """A pattern of what is `before` a name, and of the `whole` of a header.

    `between` is what is before the name of a further call of a section. `in_list`: only in a list
    this tells a further call from text. `is_text`: the arguments are no JSON, and are followed from
    the header on.
    """

    before: regex.Pattern[str]
    between: regex.Pattern[str]
    in_list: bool
    whole: regex.Pattern[str]
    headers: tuple[Header, ...]
    is_text: bool


class PartialName(NamedTuple):
    """The text from where a call's header begins, and the ways that it may go on; no ways within
    the call.

    `is_text`: the arguments that follow are no JSON. `call` is its number in the answer.
    """

    text: str
    headers: tuple[Header, ...]
    is_text: bool = False
    call: int = 0


IN_MESSAGE = (Header("", HEADER_TAIL),)


def find_partial_name(
    openings: Sequence[Opening], text: str, *, is_first: bool, in_list: bool, call: int = 0
) -> PartialName | None:
    """The name that begins in a section's text, until its tail is complete.

    Before arguments that are no JSON it is given for longer. The text begins where the section
    does, or if not `is_first` after one of its calls; `call` is the number of the next one.
    """
    for opening in openings:
        if opening.in_list and not (is_first or in_list):
            continue
        before = (opening.before if is_first else opening.between).match(text)
        if before is None:
            continue
        if opening.is_text or opening.whole.match(text, before.end()) is None:
            return PartialName(text[before.end() :], opening.headers, opening.is_text, call)
    return None


def openings_of(syntax: CallSyntax, tools: DeclaredTools) -> list[Opening]:
    """How the calls of a syntax begin, as far as it can be told from other text."""
    return [
        Opening(
            before=regex.compile(rf"{SPACE}(?:\[{SPACE})?{before or BARE_NAME}"),
            between=regex.compile(
                SEPARATORS.pattern + before if before else rf"{SPACE},{SPACE}{BARE_NAME}"
            ),
            in_list=not before,
            whole=regex.compile("|".join(whole_header(header, tools) for header in headers)),
            headers=headers,
            is_text=is_text(form),
        )
        for form in syntax.forms
        for before, headers in headers_of(form, tools)
    ]


def is_text(form: CallForm) -> bool:
    """Whether the arguments of a form are no JSON."""
    return isinstance(form, (TaggedArguments, LiteralArguments))


def whole_header(header: Header, tools: DeclaredTools) -> str:
    """The pattern of a whole header."""
    prefix, name, tail = map(tools.pattern, (header.prefix, NAME, header.tail))
    # Several of these patterns are one.
    return prefix + name.replace("?P<name>", "?:") + (TAILS.get(header.tail) or tail)


class OfferedHeaders(NamedTuple):
    """The headers of one opening.

    Before arguments that are no JSON there are the syntax and the form of the call, and the
    headers that begin as these do, but have JSON behind them.
    """

    headers: tuple[Header, ...]
    syntax: CallSyntax | None = None
    form: CallForm | None = None
    json_headers: tuple[Header, ...] = ()


def all_headers(syntaxes: Sequence[CallSyntax]) -> list[OfferedHeaders]:
    """The headers of each opening of the syntaxes; those before JSON each once."""
    nothing = DeclaredTools([], [])
    found = []
    for syntax in syntaxes:
        of_forms = [(form, each) for form in syntax.forms for _, each in headers_of(form, nothing)]
        for form, headers in of_forms:
            if not is_text(form):
                found.append(OfferedHeaders(headers))
                continue
            others = (each for other, each in of_forms if not is_text(other))
            alike = tuple(h for each in others if begins_alike(each, headers) for h in each)
            found.append(OfferedHeaders(headers, syntax, form, alike))
    if any(syntax.channels for syntax in syntaxes):
        found.append(OfferedHeaders(IN_MESSAGE))
    unlike: list[OfferedHeaders] = []
    for each in found:
        with_text = any(begins_alike(each.headers, o.headers) for o in found if o.json_headers)
        if each not in unlike and (each.form is not None or not with_text):
            unlike.append(each)
    return unlike


def begins_alike(some: Sequence[Header], others: Sequence[Header]) -> bool:
    """Whether headers are the same up to the end of their tails."""
    return {each[:2] for each in some} == {each[:2] for each in others}


def headers_of(form: CallForm, tools: DeclaredTools) -> Iterator[tuple[str, tuple[Header, ...]]]:
    """The pattern of what is before a name, and how it goes on, for each way to begin a call."""
    match form:
        case JsonObjects(keyed):
            before, tail = (KEYED_BEFORE, KEYED_TAIL) if keyed else (JSON_BEFORE, JSON_TAIL)
            yield before, (Header("", tail),)
        case _:
            begun: dict[str, list[Header]] = {}
            parts = [header.partition(NAME) for header in form.headers]
            for before, _, after in sorted(parts, key=lambda part: len(part[0])):
                known = next((each for each in begun if before.startswith(each)), before)
                tail = PLACEHOLDER.split(after)[0]
                header = Header(before.removeprefix(known), tail, after.removeprefix(tail))
                begun.setdefault(known, []).append(header)
            for before, headers in begun.items():
                # A name without its quotation mark is not known to begin.
                yield tools.pattern(before).replace(OPTIONAL_MARK, MARK), tuple(headers)


def literal_openings(syntax: CallSyntax) -> list[tuple[str, str]]:
    """The texts before a name and the tails after it, as a model would write them."""
    openings: list[tuple[str, str]] = []
    for form in syntax.forms:
        match form:
            case JsonObjects(keyed):
                openings.append(('{"', '":') if keyed else ('{"name": "', '", "arguments": '))
            case _:
                headers = (header.partition(NAME) for header in form.headers)
                openings += [
                    (before.replace("{attributes}", " "), PLACEHOLDER.split(after)[0])
                    for before, _, after in headers
                ]
    return openings
