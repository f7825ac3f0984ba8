"""The types that describe a tool call format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import regex

# A placeholder in the patterns of a syntax; `compile_pattern` inserts the declared tools' names.
NAME = "(?P<name>NAME)"

Tool = dict[str, Any]
# Takes a section's text without its markers, and the declared tools. Returns a call or a list
# of calls, each with `name` and `arguments`. Raises any exception if there is none.
SectionParser = Callable[[str, Sequence[Tool]], Any]


@dataclass(frozen=True, slots=True)
class StreamingPatterns:
    """The regular expressions of a section whose arguments are JSON and so can be streamed.

    `header` matches from the section's start marker to the first call's arguments, `footer` the
    end of a call, `next_header` from there to the next call's arguments (None: a section has one
    call), `section_end` the end of the section.
    """

    header: str
    footer: str
    section_end: str = ""
    next_header: str | None = None


@dataclass(frozen=True, slots=True)
class CallTemplate:
    """A section with one call, as a family formats it: the text around the name and the arguments.

    The arguments are JSON. The name needs no escaping. If `repeatable`, several sections may
    follow each other.
    """

    before: str
    between: str
    after: str
    repeatable: bool = True

    def render(self, name: str, arguments: str) -> str:
        """The call as text."""
        return f"{self.before}{name}{self.between}{arguments}{self.after}"


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """One format of tool calls: a section from `start` to `end` with one or more calls.

    With an empty `start` the section must be at the beginning of an answer; with an empty `end`
    it lasts to the end of the answer. A section that matches a pattern of `streaming` is parsed
    as its text arrives. One that does not, but whose text matches `opening`, is buffered until
    it is complete and then passed to `parse` (`opening` None: it is no section).
    """

    start: str
    end: str
    parse: SectionParser
    opening: str | None
    streaming: tuple[StreamingPatterns, ...] = ()
    call_template: CallTemplate | None = None


def compile_pattern(pattern: str, names: Sequence[str]) -> regex.Pattern[str]:
    """Compile a pattern of a syntax for tools with these names."""
    longest_first = sorted(names, key=len, reverse=True)
    return regex.compile(pattern.replace("NAME", "|".join(map(regex.escape, longest_first)), 1))
