"""Text that arrives in parts, for readers written as generators.

A reader yields while it needs more text, so it reads on where it stopped: no text is read
twice, however it is divided. White space that a syntax allows is bounded for the same reason.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from regex import Match, Pattern

Value = TypeVar("Value")
# A reader; it yields to wait for text, and returns what it has read.
Reading = Generator[None, None, Value]

WHITE_SPACE = frozenset(" \t\n\r")


class Unreadable(Exception):
    """The text is not, or not completely, in the syntax that is read."""


class Source:
    """The text of one section. `final`: it is complete; `truncated`: the token limit ended it.

    `keep` the text that was taken until `forget`, for text that turns out to be no call.
    """

    def __init__(self) -> None:
        self.final = False
        self.truncated = False
        self.taken_chars = 0
        self.kept_chars = 0
        self._text = ""
        self._kept: list[str] = []

    @property
    def rest(self) -> str:
        """The text not yet taken."""
        return self._text

    @property
    def kept(self) -> str:
        """The text taken since `forget`."""
        return "".join(self._kept)

    def push(self, text: str) -> None:
        """Add text."""
        self._text += text

    def finish(self, *, truncated: bool) -> None:
        """No more text comes."""
        self.final, self.truncated = True, truncated

    def forget(self) -> None:
        """Keep none of the text taken so far."""
        self._kept.clear()
        self.kept_chars = 0

    def take(self, count: int) -> str:
        """Remove the next `count` characters, and return them."""
        text, self._text = self._text[:count], self._text[count:]
        self.taken_chars += count
        self.kept_chars += count
        self._kept.append(text)
        return text

    def peek(self) -> Reading[str]:
        """The next character; "" at the end of the text."""
        while not self._text and not self.final:
            yield
        return self._text[:1]

    def skip_space(self) -> Reading[str]:
        """Take white space; the next character, which is not taken."""
        while True:
            character = yield from self.peek()
            if character not in WHITE_SPACE or not character:
                return character
            self.take(len(self._text) - len(self._text.lstrip(" \t\n\r")))

    def match(self, pattern: Pattern[str], start: int = 0) -> Reading[Match[str] | None]:
        """The match of `pattern` at `start`, once it is certain."""
        while True:
            match = pattern.match(self._text, start, partial=not self.final)
            if match is None or not match.partial:
                return match
            yield

    def take_match(self, pattern: Pattern[str]) -> Reading[Match[str] | None]:
        """Take the match of `pattern`, which may be cut by the token limit."""
        match = yield from self.match(pattern)
        if match is None and self.truncated and self._text:
            match = pattern.match(self._text, partial=True)
        if match is not None:
            self.take(match.end())
        return match

    def expect(self, character: str) -> Reading[None]:
        """Take white space and this character.

        Raises:
            Unreadable: another one follows.
        """
        if (yield from self.skip_space()) != character:
            raise Unreadable
        self.take(1)


def read_all(reading: Reading[Value]) -> Value:
    """What `reading` returns; its source is final."""
    while True:
        try:
            next(reading)
        except StopIteration as stop:
            value: Value = stop.value
            return value
