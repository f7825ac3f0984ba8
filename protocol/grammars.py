"""What an answer may be; the worker compiles it for the model's vocabulary."""

from __future__ import annotations

from protocol.structs import Message


class JsonObject(Message, frozen=True):
    """Any JSON object."""


class JsonSchema(Message, frozen=True):
    """JSON that this schema allows; the schema is text, because the order of its keys counts."""

    schema: str


class Regex(Message, frozen=True):
    """Text that this regular expression matches as a whole, in the syntax of Rust's `regex`."""

    pattern: str


class TextChoice(Message, frozen=True):
    """One of these texts."""

    options: list[str]


class Lark(Message, frozen=True):
    """Text of a context-free grammar: llguidance's Lark, or GBNF."""

    text: str


Grammar = JsonObject | JsonSchema | Regex | TextChoice | Lark
