"""Validates one JSON object as its text arrives, so that the text can be streamed.

Source: RFC 8259. Nothing is decoded: the text is passed on unchanged.
"""

from __future__ import annotations

import re
from typing import Literal

WHITESPACE = frozenset(" \t\n\r")
SCALAR = re.compile(r"true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
SCALAR_CHARACTERS = frozenset("+-.0123456789abcdefghijklmnopqrstuvwxyzE")
HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
ESCAPES = frozenset('"\\/bfnrtu')
MAX_SCALAR_CHARS = 400
MAX_DEPTH = 64

State = Literal["value", "first value", "key", "first key", "colon", "comma", "string", "scalar"]


class NotJson(ValueError):
    """The text is not, and cannot become, a JSON object."""


class PartialJsonObject:
    """One object; `complete` once its closing brace has arrived."""

    def __init__(self) -> None:
        self.complete = False
        self._closers: list[str] = []
        self._state: State = "value"
        self._scalar = ""
        self._is_key = False
        self._escape = False
        self._hex_left = 0

    def push(self, text: str) -> int:
        """The number of characters of `text` that belong to the object.

        Raises:
            NotJson: a character is invalid at its position.
        """
        for index, character in enumerate(text):
            if self.complete:
                return index
            self._step(character)
        return len(text)

    def _step(self, character: str) -> None:
        if self._state == "string":
            self._step_string(character)
        elif self._state == "scalar" and character in SCALAR_CHARACTERS:
            self._scalar += character
            self._require(len(self._scalar) <= MAX_SCALAR_CHARS)
        else:
            if self._state == "scalar":
                self._require(SCALAR.fullmatch(self._scalar) is not None)
                self._state = "comma"
            if character not in WHITESPACE:
                self._step_outside(character)

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
        elif character == '"':
            self._state = "colon" if self._is_key else "comma"
        else:
            self._require(character >= " ")

    def _step_outside(self, character: str) -> None:
        match self._state:
            case "first key" | "first value" if character == self._closers[-1]:
                self._close()
            case "comma" if character == self._closers[-1]:
                self._close()
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
            return
        self._require(bool(self._closers))
        if character == "[":
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

    def _close(self) -> None:
        self._closers.pop()
        self._state = "comma"
        self.complete = not self._closers

    def _require(self, holds: bool) -> None:
        if not holds:
            raise NotJson
