"""Splits an answer's text into content, reasoning and tool calls, for any division into deltas.

Markers are matched on text. A think block counts only if the prompt opened it or it is the
first text of the answer. A tool call counts if it calls a declared tool, and neither code nor a
quotation has it (`line_context.py`). These count only once it is known what follows them:

- a section within a line: the line must end with it;
- a section without its start marker, or in a think block: the answer must end with it, and by
  itself.

Text of anything else is content. No text is both content and a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from protocol.events import TextKind
from worker.call_readers.deltas import ContentDelta, OutputDelta
from worker.segmentation.hidden_spans import HiddenSpans
from worker.segmentation.line_context import LineContext
from worker.segmentation.sections import (
    Condition,
    Section,
    SectionStart,
    find,
    finder,
    section_starts,
)
from worker.tool_calls.markers import Markers
from worker.tool_calls.openings import PartialName
from worker.tool_calls.parser import CompiledSyntax, ParseStatus, ToolParser

State = Literal["reasoning", "content", "tool_call", "after_call"]

# Line breaks before the end of a think block are dropped with it: so many are held back.
MAX_HELD_LINE_BREAKS = 64
# White space before what may only begin an answer.
MAX_LEADING_SPACE_CHARS = 1024
# After so many sections that turn out to be none when the answer ends, the rest is not searched.
MAX_FAILURES_AT_END = 8


class Segmenter:
    """The parser of one answer. `reasoning`: the prompt has opened a think block.

    Line breaks next to the markers of a think block are dropped with them.
    """

    def __init__(
        self,
        markers: Markers,
        syntaxes: Sequence[CompiledSyntax] = (),
        *,
        parallel: bool = True,
        reasoning: bool = False,
    ) -> None:
        self._markers = markers
        self._parallel = parallel
        self._unmarked = [SectionStart(c) for c in syntaxes if not c.syntax.start]
        self._unmarked += [SectionStart(c, is_lead=True) for c in syntaxes if c.syntax.start]
        self._starts = section_starts(syntaxes)
        self._content_finder = finder((*self._starts, *markers.structural))
        self._reasoning_finder = finder((*self._starts, markers.think_end))
        self._think_end_finder = finder((markers.think_end,))
        self._starts_finder = finder((*self._starts,))
        self._first_characters = frozenset(m[0] for m in (*self._starts, *markers.structural))
        self._lines = LineContext()
        self._state: State = "reasoning" if reasoning else "content"
        self._buffer = ""
        # How much text was pushed, and which of it is hidden.
        self._pushed_chars = 0
        self._hidden = HiddenSpans()
        # A think block or an unmarked call may begin here.
        self._at_start = True
        self._after_think_marker = reasoning
        self._section: Section | None = None
        self._failures_at_end = 0
        self.call_count = 0
        self.has_broken_call = False

    @property
    def in_reasoning(self) -> bool:
        """Whether the text so far ends in a think block."""
        section = self._section
        return self._state == "reasoning" or (section is not None and section.kind == "reasoning")

    @property
    def ended(self) -> bool:
        """Whether the answer ends here because only one call was requested."""
        return bool(self.call_count) and not (self._parallel or self.has_broken_call)

    @property
    def in_arguments(self) -> bool:
        """Whether the text so far ends inside a call's JSON arguments."""
        return self._section is not None and self._section.in_arguments

    @property
    def partial_name(self) -> PartialName | None:
        """The name that begins a section's first call; None outside of it."""
        return self._section.partial_name if self._section else None

    @property
    def held_chars(self) -> int:
        """How many characters that may be shown are held back."""
        held = len(self._buffer) + (self._section.all_held_chars if self._section else 0)
        return held - self._hidden.chars_after(self._pushed_chars - held)

    def push(self, text: str, hidden_chars: int = 0) -> list[OutputDelta]:
        """Parse more text, whose last `hidden_chars` are not shown, and return its deltas."""
        if hidden_chars:
            hidden = text[-hidden_chars:]
            self._hidden.add(self._pushed_chars + len(text) - hidden_chars, hidden)
        self._pushed_chars += len(text)
        if self.is_plain(text) and not hidden_chars:
            if self._starts:
                self._lines.add(text)
            return [ContentDelta(text)] if text else []
        self._buffer += text
        return self._advance(final=False, truncated=False)

    def finish(self, *, truncated: bool) -> list[OutputDelta]:
        """The deltas of the text held back; `truncated`: the token limit ended the answer."""
        return self._advance(final=True, truncated=truncated)

    def is_plain(self, text: str) -> bool:
        """Whether `text` is content without any marker: the fast path for most tokens."""
        return (
            self._state == "content"
            and not (self._buffer or self._at_start or self._after_think_marker or self.call_count)
            and self._first_characters.isdisjoint(text)
        )

    def _advance(self, *, final: bool, truncated: bool) -> list[OutputDelta]:
        deltas: list[OutputDelta] = []
        progress = True
        while progress and not self.ended:
            match self._state:
                case "reasoning":
                    progress = self._parse_reasoning(deltas, final)
                case "content":
                    progress = self._parse_content(deltas, final)
                case "tool_call":
                    progress = self._parse_section(deltas, final, truncated)
                case "after_call":
                    progress = self._parse_after_section(deltas, final, truncated)
        return deltas

    # ------------------------------------------------------------ one state; True: parse on

    def _parse_reasoning(self, deltas: list[OutputDelta], final: bool) -> bool:
        self._drop_line_breaks()
        text = self._buffer
        match = find(self._reasoning_finder, self._buffer, final)
        if match is None or match.partial:
            end = match.start() if match else len(text)
            if not final:
                end = max(len(text[:end].rstrip("\n")), end - MAX_HELD_LINE_BREAKS)
            self._add(deltas, text[:end], "reasoning")
            self._buffer = text[end:]
            return False
        before, marker = text[: match.start()], match[0]
        if marker == self._markers.think_end:
            self._add(deltas, before.rstrip("\n"), "reasoning")
            self._buffer, self._state = text[match.end() :], "content"
            self._after_think_marker = True
            self._lines.start_line()
            return True
        self._lines.add(before)
        self._buffer = text[match.end() :]
        if not self._lines.begins_line:
            self._lines.add(marker)
            self._append(deltas, before + marker, "reasoning", len(before + marker))
            return True
        # Line breaks before a section are dropped with it.
        end = len(before.rstrip("\n"))
        if end:
            self._append(deltas, before[:end], "reasoning", len(before + marker))
        self._start_section(self._starts[marker], Condition.ANSWER_END, "reasoning", before[end:])
        return True

    def _parse_content(self, deltas: list[OutputDelta], final: bool) -> bool:
        self._drop_line_breaks()
        if self._at_start and (progress := self._parse_start(final)) is not None:
            return progress
        match = find(self._content_finder, self._buffer, final)
        if match is None or match.partial:
            end = match.start() if match else len(self._buffer)
            self._add(deltas, self._buffer[:end], "content")
            self._buffer = self._buffer[end:]
            return False
        self._add(deltas, self._buffer[: match.start()], "content")
        self._buffer = self._buffer[match.end() :]
        start = self._starts.get(match[0])
        if start is None:
            return True
        if self._lines.is_shown or (start.is_lead and not self._lines.begins_line):
            self._add(deltas, match[0], "content", taken_chars=len(match[0]))
        elif start.is_lead:
            self._start_section(start, Condition.ANSWER_END)
        else:
            begins_line = self._lines.begins_line
            self._start_section(start, Condition.NONE if begins_line else Condition.LINE_END)
        return True

    def _parse_start(self, final: bool) -> bool | None:
        """What may only begin an answer: True if it does, False to wait for text, None if not."""
        think_start = self._markers.think_start
        text = self._buffer.lstrip()
        if think_start and text.startswith(think_start):
            self._buffer = text.removeprefix(think_start)
            self._state, self._after_think_marker = "reasoning", True
            return True
        if len(self._buffer) - len(text) > MAX_LEADING_SPACE_CHARS:
            self._at_start = False
            return None
        content_start = self._markers.content_start
        if content_start and self._buffer.startswith(content_start):
            self._buffer, self._at_start = self._buffer.removeprefix(content_start), False
            return True
        may_begin = any(start.startswith(text) for start in (think_start, content_start) if start)
        if not final and (not text or may_begin):
            return False if think_start or content_start or self._unmarked else None
        waits = False
        for start in self._unmarked:
            begins = start.compiled.begins(self._buffer)
            if begins:
                is_whole = start.is_lead or start.compiled.syntax.bare
                self._start_section(start, Condition.ANSWER_END if is_whole else Condition.NONE)
                return True
            waits = waits or begins is None
        return False if waits and not final else None

    def _parse_section(self, deltas: list[OutputDelta], final: bool, truncated: bool) -> bool:
        section = self._section
        assert section is not None
        text, self._buffer = self._buffer, ""
        if section.kind == "reasoning":
            match = find(self._think_end_finder, text, final)
            end = match.start() if match else len(text)
            text, self._buffer = text[:end], text[end:]
            if match is not None and not match.partial:
                # The think block does end, so what it has is no call.
                section.hold(text)
                return self._drop_section(deltas)
        section.hold(text)
        found = section.parser.push(text)
        if final:
            found += section.parser.finish(truncated=truncated)
        if section.condition is Condition.NONE:
            deltas += found
        else:
            section.deltas += found
        if section.parser.status is ParseStatus.OPEN:
            return False
        if section.condition is Condition.NONE:
            self._end_section(section, deltas)
        else:
            self._end_held_section(section, deltas, final)
        return True

    def _end_section(self, section: Section, deltas: list[OutputDelta]) -> None:
        """A section whose calls were released as they arrived is complete, or is none."""
        parser = section.parser
        self.call_count = parser.index
        self._section, self._state = None, "content"
        self._buffer = parser.rest + self._buffer
        match parser.status:
            case ParseStatus.NOT_A_CALL:
                # The start marker is content; the text after it may contain another call.
                self._buffer = parser.kept_text + self._buffer
                self._at_start = False
                marker = parser.kept_marker
                self._add(deltas, marker, "content", taken_chars=len(marker))
                return
            case ParseStatus.CUT:
                # What may be the beginning of a tag is part of the call.
                self._buffer, self.has_broken_call = "", True
        self._at_start = True
        self._lines.start_line()

    def _end_held_section(self, section: Section, deltas: list[OutputDelta], final: bool) -> None:
        """A section whose calls are held back is complete, or is none."""
        match section.parser.status:
            case ParseStatus.DONE:
                rest = section.parser.rest
                section.unhold(len(rest))
                self._buffer, self._state = rest + self._buffer, "after_call"
            case ParseStatus.NOT_A_CALL:
                # At the end of the answer the section was not complete; the text was parsed once.
                self._failures_at_end += final
                again = section.condition is Condition.LINE_END or not final
                self._drop_section(
                    deltas, again=again and self._failures_at_end <= MAX_FAILURES_AT_END
                )
            case status if section.condition is Condition.LINE_END:
                is_last = section.parser.index == section.first_index + 1
                self.has_broken_call = status is ParseStatus.CUT and (self._parallel or is_last)
                self._release_section(section, deltas)
            case _:
                self._drop_section(deltas)

    def _parse_after_section(self, deltas: list[OutputDelta], final: bool, truncated: bool) -> bool:
        """What follows a section that is held back decides whether it counts."""
        section = self._section
        assert section is not None
        space = len(self._buffer) - len(self._buffer.lstrip())
        ends_line = section.condition is Condition.LINE_END and "\n" in self._buffer[:space]
        match = self._starts_finder.match(self._buffer, space, partial=not final)
        if space == len(self._buffer) and not ends_line:
            if not final:
                return False
            if section.condition is Condition.ANSWER_END and truncated:
                self._drop_section(deltas)
            else:
                self._release_section(section, deltas)
        elif ends_line:
            self._release_section(section, deltas)
        elif match is None:
            self._drop_section(deltas)
        elif match.partial:
            return False
        elif section.condition is Condition.LINE_END:
            self._release_section(section, deltas)
        else:
            section.hold(self._buffer[: match.end()])
            self._buffer = self._buffer[match.end() :]
            start, index = self._starts[match[0]], section.parser.index
            section.parser = self._make_parser(start, index, Condition.ANSWER_END)
            self._state = "tool_call"
        return True

    # ------------------------------------------------------------ sections

    def _start_section(
        self,
        start: SectionStart,
        condition: Condition,
        kind: TextKind = "content",
        before: str = "",
    ) -> None:
        """Parse a section from its start marker on; `before` is held back with it."""
        parser = self._make_parser(start, self.call_count, condition)
        self._section = Section(parser, condition, kind, before, start.marker, self.call_count)
        self._state = "tool_call"

    def _make_parser(self, start: SectionStart, index: int, condition: Condition) -> ToolParser:
        if start.is_lead:
            # The marker is a part of the first call.
            self._buffer = start.marker + self._buffer
        return ToolParser(
            start.compiled,
            index,
            # What follows the first call decides whether it counts.
            parallel=self._parallel or condition is not Condition.NONE,
            start="" if start.is_lead else start.marker,
            whole=condition is Condition.ANSWER_END,
        )

    def _release_section(self, section: Section, deltas: list[OutputDelta]) -> None:
        deltas += section.calls(parallel=self._parallel)
        self.call_count = section.parser.index if self._parallel else section.first_index + 1
        self._section, self._state, self._at_start = None, "content", True
        self._lines.start_line()

    def _drop_section(self, deltas: list[OutputDelta], *, again: bool = False) -> bool:
        """The section is text; with `again` the text after its start marker is parsed again."""
        section = self._section
        assert section is not None
        rest, text = section.text.removeprefix(section.marker), section.before + section.marker
        if again:
            self._buffer = rest + self._buffer
        else:
            text += rest
        self._section, self._at_start = None, False
        self._state = "reasoning" if section.kind == "reasoning" else "content"
        self._add(deltas, text, section.kind, taken_chars=len(text))
        return True

    def _add(
        self, deltas: list[OutputDelta], text: str, kind: TextKind, *, taken_chars: int = 0
    ) -> None:
        """Add text, which begins the buffer or, `taken_chars` long, was taken before it."""
        if text:
            self._append(deltas, text, kind, taken_chars)
            self._lines.add(text)
            if kind == "content" and text.strip():
                self._at_start = False

    def _append(
        self, deltas: list[OutputDelta], text: str, kind: TextKind, taken_chars: int
    ) -> None:
        start = self._pushed_chars - len(self._buffer) - taken_chars
        deltas.append(ContentDelta(text, kind, self._hidden.within(start, text)))

    def _drop_line_breaks(self) -> None:
        if self._after_think_marker:
            self._buffer = self._buffer.lstrip("\n")
            self._after_think_marker = not self._buffer
