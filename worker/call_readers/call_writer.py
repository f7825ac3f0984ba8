"""Writes the calls of one section as deltas."""

from __future__ import annotations

import json
from typing import Any

from worker.call_readers.deltas import OutputDelta, ToolCallArguments, ToolCallStart


class CallWriter:
    """Writes calls from number `index`; `open`: one has started and is not complete.

    `in_json`: what is written now is the model's own JSON, character for character. `named` is
    a call whose name is known but whose arguments have not begun.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.open = False
        self.in_json = False
        self.named = ""
        self._deltas: list[OutputDelta] = []

    def take(self) -> list[OutputDelta]:
        """The deltas written since the last time."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def start(self, name: str) -> None:
        """Start a call of the tool `name`."""
        self.open = True
        self.named = ""
        self._deltas.append(ToolCallStart(self.index, name))

    def write(self, text: str) -> None:
        """Write a part of the arguments' JSON."""
        if text:
            self._deltas.append(ToolCallArguments(self.index, text))

    def end(self) -> None:
        """End the call."""
        self.open = self.in_json = False
        self.named = ""
        self.index += 1


def dump_json(value: Any) -> str:
    """The value as JSON text.

    Raises:
        ValueError: the value is not a number (NaN) or infinite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can only escape
        text = json.dumps(value, allow_nan=False)
    return text


def escape_text(text: str) -> str:
    """A part of a string's text as it is inside a JSON string."""
    return dump_json(text)[1:-1]
