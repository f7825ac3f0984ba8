"""One section of calls of an answer, while it is parsed."""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import regex

from protocol.events import TextKind
from worker.call_readers.deltas import OutputDelta
from worker.tool_calls.openings import PartialName
from worker.tool_calls.parser import CompiledSyntax, ToolParser

# Of the models that are loaded: some four each, and others where a request has no calls.
CACHED_PATTERNS = 256


class Condition(enum.Enum):
    """What must follow a section for it to count."""

    NONE = "anything"
    LINE_END = "the end of the line"
    ANSWER_END = "the end of the answer"


@dataclass(frozen=True, slots=True)
class SectionStart:
    """What a marker begins: a section, whose `marker` may be a part of its first call."""

    compiled: CompiledSyntax
    marker: str = ""
    is_lead: bool = False


@dataclass(slots=True)
class Section:
    """A section that is parsed, in text of `kind`; its first call has number `first_index`.

    Unless its `condition` is `NONE`, its deltas are held back until that is met, with `before`
    (line breaks before it), its start `marker`, and its text.
    """

    parser: ToolParser
    condition: Condition
    kind: TextKind
    before: str
    marker: str
    first_index: int
    deltas: list[OutputDelta] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    held_chars: int = 0

    @property
    def text(self) -> str:
        """Its text so far."""
        return "".join(self.parts)

    @property
    def in_arguments(self) -> bool:
        """Whether the text so far ends inside the JSON arguments of a call that is released."""
        return self.condition is Condition.NONE and self.parser.in_arguments

    @property
    def partial_name(self) -> PartialName | None:
        """The name that begins its first call; None if its calls are held back."""
        return self.parser.partial_name if self.condition is Condition.NONE else None

    @property
    def all_held_chars(self) -> int:
        """How many characters are held back with it."""
        if self.condition is Condition.NONE:
            return self.parser.held_chars
        return len(self.before + self.marker) + self.held_chars

    def calls(self, *, parallel: bool) -> list[OutputDelta]:
        """The deltas of its calls; of the first alone, if not `parallel`."""
        if parallel:
            return self.deltas
        return [d for d in self.deltas if getattr(d, "index", 0) == self.first_index]

    def hold(self, text: str) -> None:
        """Keep text that becomes content if the section does not count."""
        if self.condition is not Condition.NONE:
            self.parts.append(text)
            self.held_chars += len(text)

    def unhold(self, count: int) -> None:
        """Forget the last `count` characters, which are not part of the section."""
        text = self.text
        self.parts = [text[: len(text) - count]]
        self.held_chars -= count


def section_starts(syntaxes: Sequence[CompiledSyntax]) -> dict[str, SectionStart]:
    """What each marker begins; of two syntaxes with one marker, the first."""
    starts: dict[str, SectionStart] = {}
    for compiled in syntaxes:
        if start := compiled.syntax.start:
            starts.setdefault(start, SectionStart(compiled, start))
    for compiled in syntaxes:
        for lead in compiled.syntax.leads:
            starts.setdefault(lead, SectionStart(compiled, lead, is_lead=True))
    return starts


def finder(markers: Sequence[str]) -> regex.Pattern[str]:
    """The pattern of any of these markers; of two at one place, the longer."""
    return compile_markers(tuple(filter(None, markers)))


@functools.lru_cache(CACHED_PATTERNS)
def compile_markers(markers: tuple[str, ...]) -> regex.Pattern[str]:
    """The same, kept: each answer of a model looks for the same few markers."""
    longest_first = sorted(markers, key=len, reverse=True)
    return regex.compile("|".join(map(regex.escape, longest_first)) or "(?!)")


def find(pattern: regex.Pattern[str], text: str, final: bool) -> regex.Match[str] | None:
    """The first match, which is partial if the text ends inside it; None if there is none."""
    return pattern.search(text, partial=not final)
