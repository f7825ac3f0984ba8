"""Grammars that constrain an answer; the worker compiles them for a model's vocabulary."""

from __future__ import annotations

from protocol.structs import Message

# No flexible white space: weak models repeat it without end. One optional space after a
# separator is allowed, because most models have learned JSON that way. A schema's own
# "x-guidance" may set another style.
JSON_STYLE: dict[str, bool | str] = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
}


class JsonObject(Message, frozen=True):
    """Any JSON object."""


class JsonSchema(Message, frozen=True):
    """JSON that is valid under this schema; a text, because the order of the keys matters."""

    schema: str


class Regex(Message, frozen=True):
    """Text that fully matches this regular expression, in the syntax of Rust's `regex`."""

    pattern: str


class TextChoice(Message, frozen=True):
    """One of these texts."""

    options: list[str]


class Lark(Message, frozen=True):
    """A text of this context-free grammar, in llguidance's Lark syntax or in GBNF."""

    text: str


Grammar = JsonObject | JsonSchema | Regex | TextChoice | Lark
