"""Validates one JSON value as its text arrives, so that the text can be streamed.

Source: RFC 8259. Nothing is decoded: the text is passed on unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from worker.call_readers.source import Reading, Source, Unreadable

WHITESPACE = frozenset(" \t\n\r")
SCALAR = re.compile(r"true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
SCALAR_CHARACTERS = frozenset("+-.0123456789abcdefghijklmnopqrstuvwxyzE")
HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
ESCAPES = frozenset('"\\/bfnrtu')
# Characters of a string that need no look at each of them.
PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
MAX_SCALAR_CHARS = 400
MAX_DEPTH = 64

State = Literal["value", "first value", "key", "first key", "colon", "comma", "string", "scalar"]


class NotJson(Unreadable):
    """The text is not, and cannot become, a JSON value."""


class PartialJson:
    """One value; `complete` once its last character has arrived, or the one after a number."""

    def __init__(self) -> None:
        self.complete = False
        self._closers: list[str] = []
        self._state: State = "value"
        self._scalar = ""
        self._is_key = False
        self._escape = False
        self._hex_left = 0

    def push(self, text: str) -> int:
        """The number of characters of `text` that belong to the value.

        Raises:
            NotJson: a character is invalid at its position.
        """
        index = 0
        while index < len(text) and not self.complete:
            plain = None
            if self._state == "string" and not (self._escape or self._hex_left):
                plain = PLAIN.match(text, index)
            index = plain.end() if plain else index + self._step(text[index])
        return index

    def end(self) -> None:
        """No more text comes: a number or a word may end here.

        Raises:
            NotJson: the value is not complete.
        """
        self._require(self._state == "scalar" and not self._closers)
        self._end_scalar()

    def _step(self, character: str) -> int:
        """Read the character; 0 if it is the first one after the value."""
        if self._state == "string":
            self._step_string(character)
        elif self._state == "scalar" and character in SCALAR_CHARACTERS:
            self._scalar += character
            self._require(len(self._scalar) <= MAX_SCALAR_CHARS)
        else:
            if self._state == "scalar":
                self._end_scalar()
                if self.complete:
                    return 0
            if character not in WHITESPACE:
                self._step_outside(character)
        return 1

    def _end_scalar(self) -> None:
        self._require(SCALAR.fullmatch(self._scalar) is not None)
        self._end_value()

    def _step_string(self, character: str) -> None:
        if self._hex_left:
            self._require(character in HEX_DIGITS)
            self._hex_left -= 1
        elif self._escape:
            self._require(character in ESCAPES)
            self._escape = False
            self._hex_left = 4 if character == "u" else 0
        elif character == "\\":
            self._escape = True
        elif character == '"' and self._is_key:
            self._state = "colon"
        elif character == '"':
            self._end_value()
        else:
            self._require(character >= " ")

    def _step_outside(self, character: str) -> None:
        match self._state:
            case "first key" | "first value" | "comma" if character == self._closers[-1]:
                self._closers.pop()
                self._end_value()
            case "comma":
                self._require(character == ",")
                self._state = "key" if self._closers[-1] == "}" else "value"
            case "colon":
                self._require(character == ":")
                self._state = "value"
            case "first key" | "key":
                self._require(character == '"')
                self._state, self._is_key = "string", True
            case _:
                self._begin_value(character)

    def _begin_value(self, character: str) -> None:
        if character == "{":
            self._open("}", "first key")
        elif character == "[":
            self._open("]", "first value")
        elif character == '"':
            self._state, self._is_key = "string", False
        else:
            self._require(character in SCALAR_CHARACTERS)
            self._state, self._scalar = "scalar", character

    def _open(self, closer: str, state: State) -> None:
        self._closers.append(closer)
        self._require(len(self._closers) <= MAX_DEPTH)
        self._state = state

    def _end_value(self) -> None:
        self._state = "comma"
        self.complete = not self._closers

    def _require(self, holds: bool) -> None:
        if not holds:
            raise NotJson


def stream_json(source: Source, write: Callable[[str], object]) -> Reading[None]:
    """Pass the text of one JSON value on to `write` as it arrives.

    Raises:
        NotJson: it is not JSON from here, or it does not end.
    """
    value = PartialJson()
    while not value.complete:
        if not (yield from source.peek()):
            value.end()
        write(source.take(value.push(source.rest)))


def collect_json(source: Source) -> Reading[str]:
    """The text of one JSON value.

    Raises:
        NotJson: it is not JSON, or it does not end.
    """
    parts: list[str] = []
    yield from stream_json(source, parts.append)
    return "".join(parts)
