"""What tells one way of writing tool calls from another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import regex

# Stands for the names of the declared tools in the patterns of a syntax.
NAME = "(?P<name>NAME)"

Tool = dict[str, Any]
# A section's text without its markers, and the declared tools: a call, or several, each
# with `name` and `arguments`. Raises whatever it likes where there is none.
Parse = Callable[[str, Sequence[Tool]], Any]


@dataclass(frozen=True, slots=True)
class StreamedCalls:
    """Patterns of a section whose arguments are JSON, so that they can be passed on as they come.

    `header` is all before the first call's arguments, `footer` what ends a call,
    `more` all between it and the next call's arguments (None: one call a section),
    `close` what ends the section.
    """

    header: str
    footer: str
    close: str = ""
    more: str | None = None


@dataclass(frozen=True, slots=True)
class CallTemplate:
    """A section of one call as the family writes it: its parts around the name and the arguments.

    The arguments are JSON, and the name stands between quotes or needs none. With
    `repeats` several may follow each other.
    """

    before: str
    between: str
    after: str
    repeats: bool = True

    def write(self, name: str, arguments: str) -> str:
        """The call as text."""
        return f"{self.before}{name}{self.between}{arguments}{self.after}"


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """One way of writing calls: a section from `start` to `end` that holds one or more of them.

    An empty `start` is a section at the very beginning of an answer, an empty
    `end` one that only the answer's end closes. `opening` is the pattern of how a
    section's text must begin to be waited for as a whole, and given to `parse`,
    where `streamed` does not apply. None: it is not waited for.
    """

    start: str
    end: str
    parse: Parse
    opening: str | None
    streamed: tuple[StreamedCalls, ...] = ()
    written: CallTemplate | None = None


def compile_pattern(pattern: str, names: Sequence[str]) -> regex.Pattern[str]:
    """A syntax's pattern for the tools of these names."""
    longest_first = sorted(names, key=len, reverse=True)
    return regex.compile(pattern.replace("NAME", "|".join(map(regex.escape, longest_first)), 1))
