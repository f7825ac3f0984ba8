"""Values in the notations of Python and of Gemma, read as their text arrives.

Both also have JSON's `true`, `false` and `null`. A word in neither notation is a string.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import regex

from worker.call_readers.source import Reading, Source, Unreadable, read_all

MAX_DEPTH = 64
MAX_WORD_CHARS = 4096
WORDS = {
    "True": True,
    "False": False,
    "None": None,
    "true": True,
    "false": False,
    "null": None,
}
NUMBER = regex.compile(r"[+-]?(?:\d[\d_]*)?\.?\d*(?:[eE][+-]?\d+)?")
ESCAPE = regex.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[\s\S])")
ESCAPED = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "a": "\a",
    "0": "\0",
    "\n": "",
    "\\": "\\",
    "'": "'",
    '"': '"',
}


@dataclass(frozen=True, slots=True)
class Notation:
    """How values are written: the delimiters of strings, and whether `\\` escapes in them.

    `assign` stands between a key and its value.
    """

    quotes: Sequence[str]
    escapes: bool
    assign: str


PYTHON = Notation(quotes=('"""', "'''", '"', "'"), escapes=True, assign="=")
GEMMA = Notation(quotes=('<|"|>', "<escape>", '"'), escapes=False, assign=":")


class LiteralReader:
    """Reads values of one notation from `source`."""

    def __init__(self, source: Source, notation: Notation) -> None:
        self._source = source
        self._notation = notation
        quotes = "|".join(map(regex.escape, notation.quotes))
        self._quote = regex.compile(f"(?P<quote>{quotes})")
        self._ends = {
            quote: regex.compile(
                f"(?P<end>{regex.escape(quote)})"
                + (f"|{ESCAPE.pattern}" if notation.escapes else "")
            )
            for quote in notation.quotes
        }
        self._word = regex.compile(r"[^,()\[\]{}\"'=:<>\n]+")

    def value(self, depth: int = 0) -> Reading[Any]:
        """The next value.

        Raises:
            Unreadable: it is in no known notation, or does not end.
        """
        character = yield from self._source.skip_space()
        if depth > MAX_DEPTH or not character:
            raise Unreadable
        if character == "[":
            return (yield from self._items("]", depth))
        if character == "(":
            return (yield from self._items(")", depth))
        if character == "{":
            self._source.take(1)
            return dict((yield from self.pairs("}", ":", depth + 1)))
        if (match := (yield from self._source.match(self._quote))) is not None:
            self._source.take(match.end())
            return (yield from self._string(match["quote"]))
        return (yield from self._bare())

    def pairs(
        self, end: str, assign: str, depth: int = 0, found: list[tuple[str, Any]] | None = None
    ) -> Reading[list[tuple[str, Any]]]:
        """The keys with their values up to and with `end`; `found` has those read so far."""
        found = [] if found is None else found
        while (yield from self._source.skip_space()) != end:
            key = yield from self.value(depth)
            if not isinstance(key, str):
                key = json.dumps(key)
            yield from self._source.expect(assign)
            found.append((key, (yield from self.value(depth))))
            yield from self._separate(end)
        self._source.take(1)
        return found

    def _items(self, end: str, depth: int) -> Reading[list[Any]]:
        self._source.take(1)
        items: list[Any] = []
        while (yield from self._source.skip_space()) != end:
            items.append((yield from self.value(depth + 1)))
            yield from self._separate(end)
        self._source.take(1)
        return items

    def _separate(self, end: str) -> Reading[None]:
        if (yield from self._source.skip_space()) != end:
            yield from self._source.expect(",")

    def _string(self, quote: str) -> Reading[str]:
        parts: list[str] = []
        pattern, source = self._ends[quote], self._source
        while True:
            match = pattern.search(source.rest, partial=not source.final)
            if match is None and source.final:
                raise Unreadable
            parts.append(source.take(match.start() if match else len(source.rest)))
            if match is None or match.partial:
                yield
            elif match["end"]:
                source.take(match.end() - match.start())
                return "".join(parts)
            else:
                parts.append(unescape(source.take(match.end() - match.start())))

    def _bare(self) -> Reading[Any]:
        """A number, or a word."""
        source = self._source
        while True:
            match = self._word.match(source.rest)
            if match is None or match.end() > MAX_WORD_CHARS:
                raise Unreadable
            if match.end() == len(source.rest) and source.truncated:
                raise Unreadable
            if match.end() < len(source.rest) or source.final:
                return word_value(source.take(match.end()).strip())
            yield


def word_value(word: str) -> Any:
    """The value of a word: a number, a constant, or else the word itself."""
    if word in WORDS:
        return WORDS[word]
    if NUMBER.fullmatch(word) and any(character.isdigit() for character in word):
        plain = word.replace("_", "")
        try:
            return int(plain) if plain.lstrip("+-").isdigit() else float(plain)
        except ValueError:
            return word
    return word


def unescape(text: str) -> str:
    """The character that a Python escape stands for; an unknown escape stands for itself."""
    kind, digits = text[1], text[2:]
    if digits:
        code = int(digits, base=16)
        return chr(code) if code <= 0x10FFFF else text
    return ESCAPED.get(kind, text)


def parse_literal(text: str, notation: Notation = PYTHON) -> Any:
    """The value of a complete text.

    Raises:
        Unreadable: it is none.
    """
    source = Source()
    source.push(text)
    source.finish(truncated=False)
    value = read_all(LiteralReader(source, notation).value())
    if source.rest.strip():
        raise Unreadable
    return value
