"""The input of a custom tool, read from arguments that arrive in parts: `{"input": "text"}`."""

from __future__ import annotations

import json
import re

import msgspec

from protocol.json_values import replace_halves
from service.api.responses.shapes.tools import INPUT

BEGIN = re.compile(r'\s*\{\s*"' + INPUT + r'"\s*:\s*"')
HIGH = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
# One character of a JSON text, or its end; a high surrogate goes with the low one that may follow.
ELEMENT = re.compile(
    HIGH + r"(?:\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?=[^\\]|\\[^u]|\\u(?![dD][c-fC-F])[0-9a-fA-F]{2}))"
    r"|\\u(?![dD][89abAB])[0-9a-fA-F]{4}"
    r'|\\[^u]|[^"\\]+|(?P<end>")'
)


class CustomInputReader:
    """Decodes the text as far as it has arrived. `text` is all of it so far."""

    def __init__(self) -> None:
        self._arguments = ""
        self._position: int | None = None
        self._ended = False
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """The input so far; arguments of another form are the input as they are."""
        if self._position is not None:
            return "".join(self._parts)
        return input_of(self._arguments)

    def feed(self, part: str) -> str:
        """The text that this part of the arguments adds."""
        self._arguments += part
        if self._position is None:
            begin = BEGIN.match(self._arguments)
            if begin is None:
                return ""
            self._position = begin.end()
        found = []
        while not self._ended and (element := ELEMENT.match(self._arguments, self._position)):
            self._position = element.end()
            if element["end"]:
                self._ended = True
            else:
                found.append(unescape(element[0]))
        added = "".join(found)
        self._parts.append(added)
        return added


def unescape(element: str) -> str:
    """The characters of a part of a JSON text."""
    if not element.startswith("\\"):
        return element
    try:
        text: str = json.loads(f'"{element}"')
    except ValueError:
        return element
    return replace_halves(text)


def input_of(arguments: str) -> str:
    """The input in complete arguments."""
    try:
        decoded = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return arguments
    value = decoded.get(INPUT) if isinstance(decoded, dict) else None
    return value if isinstance(value, str) else arguments
