"""Splits an answer's text into content, reasoning and tool calls, for any division into deltas.

Markers are matched on text. A think block counts only if the prompt opened it or it is the
first text of the answer, and a tool call only if it calls a declared tool. A marker that the
model only mentions is therefore content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from protocol.events import TextKind
from worker.outputs.control_tokens import HiddenSpans
from worker.tool_calls.deltas import ContentDelta, OutputDelta
from worker.tool_calls.parser import CompiledSyntax, ParseStatus, ToolParser

State = Literal["reasoning", "content", "tool_call"]


@dataclass(frozen=True, slots=True)
class Markers:
    """A model's markers: those of its think block ("": it has none), and others to drop."""

    think_start: str = ""
    think_end: str = ""
    structural: tuple[str, ...] = ()


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
        self._unmarked = [compiled for compiled in syntaxes if not compiled.syntax.start]
        self._by_marker = {c.syntax.start: c for c in syntaxes if c.syntax.start}
        self._content_markers = (*self._by_marker, *markers.structural)
        self._first_characters = frozenset(marker[0] for marker in self._content_markers)
        self._state: State = "reasoning" if reasoning else "content"
        self._buffer = ""
        # How much text was pushed, and which of it is hidden.
        self._pushed_chars = 0
        self._hidden = HiddenSpans()
        # A think block or an unmarked call may begin here.
        self._at_start = True
        self._after_think_marker = reasoning
        self._tool_parser: ToolParser | None = None
        self.call_count = 0
        self.has_broken_call = False

    @property
    def in_reasoning(self) -> bool:
        """Whether the text so far ends in a think block."""
        return self._state == "reasoning"

    @property
    def ended(self) -> bool:
        """Whether the answer ends here because only one call was requested."""
        return bool(self.call_count) and not (self._parallel or self.has_broken_call)

    @property
    def in_arguments(self) -> bool:
        """Whether the text so far ends inside a call's JSON arguments."""
        return self._tool_parser is not None and self._tool_parser.in_arguments

    @property
    def held_chars(self) -> int:
        """How many characters that may be shown are held back."""
        held = len(self._buffer) + (self._tool_parser.held_chars if self._tool_parser else 0)
        return held - self._hidden.chars_after(self._pushed_chars - held)

    def push(self, text: str, hidden_chars: int = 0) -> list[OutputDelta]:
        """Parse more text, whose last `hidden_chars` are not shown, and return its deltas."""
        if hidden_chars:
            hidden = text[-hidden_chars:]
            self._hidden.add(self._pushed_chars + len(text) - hidden_chars, hidden)
        self._pushed_chars += len(text)
        if self._is_plain(text) and not hidden_chars:
            return [ContentDelta(text)] if text else []
        self._buffer += text
        return self._advance(final=False, truncated=False)

    def finish(self, *, truncated: bool) -> list[OutputDelta]:
        """The deltas of the text held back; `truncated`: the token limit ended the answer."""
        return self._advance(final=True, truncated=truncated)

    def _is_plain(self, text: str) -> bool:
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
                    progress = self._parse_call(deltas, final, truncated)
        return deltas

    # ------------------------------------------------------------ one state; True: parse on

    def _parse_reasoning(self, deltas: list[OutputDelta], final: bool) -> bool:
        self._drop_line_breaks()
        text, marker, rest = self._buffer.partition(self._markers.think_end)
        if marker:
            self._add(deltas, text.rstrip("\n"), "reasoning")
            self._buffer, self._state, self._after_think_marker = rest, "content", True
            return True
        end = len(text) if final else possible_start(text, [self._markers.think_end])
        if not final:
            end = len(text[:end].rstrip("\n"))
        self._add(deltas, text[:end], "reasoning")
        self._buffer = text[end:]
        return False

    def _parse_content(self, deltas: list[OutputDelta], final: bool) -> bool:
        self._drop_line_breaks()
        if self._at_start and (progress := self._parse_start(final)) is not None:
            return progress
        markers = self._content_markers
        matches = [(start, -len(m), m) for m in markers if (start := self._buffer.find(m)) >= 0]
        if not matches:
            end = len(self._buffer) if final else possible_start(self._buffer, markers)
            self._add(deltas, self._buffer[:end], "content")
            self._buffer = self._buffer[end:]
            return False
        start, _, marker = min(matches)
        self._add(deltas, self._buffer[:start], "content")
        self._buffer = self._buffer[start + len(marker) :]
        if marker in self._by_marker:
            self._start_call(self._by_marker[marker])
        return True

    def _parse_start(self, final: bool) -> bool | None:
        """What may only begin an answer: True if it does, False to wait for text, None if not."""
        think_start = self._markers.think_start
        text = self._buffer.lstrip()
        if think_start and text.startswith(think_start):
            self._buffer = text.removeprefix(think_start)
            self._state, self._after_think_marker = "reasoning", True
            return True
        if not final and (not text or (think_start and think_start.startswith(text))):
            return False if think_start or self._unmarked else None
        for compiled in self._unmarked:
            if text and compiled.may_begin(self._buffer):
                self._start_call(compiled)
                return True
        return None

    def _parse_call(self, deltas: list[OutputDelta], final: bool, truncated: bool) -> bool:
        parser = self._tool_parser
        assert parser is not None
        deltas += parser.push(self._buffer)
        self._buffer = ""
        if final:
            deltas += parser.finish(truncated=truncated)
        self.call_count = parser.index
        match parser.status:
            case ParseStatus.OPEN:
                return False
            case ParseStatus.DONE:
                self._buffer, self._at_start = parser.rest, True
            case ParseStatus.NOT_A_CALL:
                # The start marker is content; the text after it may contain another call.
                marker = parser.start_marker
                self._add(deltas, marker, "content", after=len(parser.raw_text))
                self._buffer, self._at_start = parser.raw_text.removeprefix(marker), False
            case ParseStatus.CUT:
                self.call_count, self.has_broken_call = parser.index + 1, True
            case ParseStatus.BROKEN:
                self.call_count, self.has_broken_call = parser.index + 1, True
                raw_text = parser.raw_text
                self._add(deltas, raw_text, "content", after=len(raw_text))
        self._tool_parser, self._state = None, "content"
        return True

    # ------------------------------------------------------------

    def _start_call(self, compiled: CompiledSyntax) -> None:
        self._state = "tool_call"
        self._tool_parser = ToolParser(compiled, self.call_count, parallel=self._parallel)

    def _add(
        self, deltas: list[OutputDelta], text: str, kind: TextKind, after: int | None = None
    ) -> None:
        """Add the text with which the last `after` characters start; None: the buffer."""
        if text:
            start = self._pushed_chars - (len(self._buffer) if after is None else after)
            deltas.append(ContentDelta(text, kind, self._hidden.within(start, text)))
            if kind == "content" and text.strip():
                self._at_start = False

    def _drop_line_breaks(self) -> None:
        if self._after_think_marker:
            self._buffer = self._buffer.lstrip("\n")
            self._after_think_marker = not self._buffer


def possible_start(text: str, markers: Sequence[str]) -> int:
    """The start of the longest suffix of `text` with which a marker begins; its length if none."""
    longest = max((len(marker) for marker in markers), default=1) - 1
    for start in range(max(0, len(text) - longest), len(text)):
        if any(marker.startswith(text[start:]) for marker in markers):
            return start
    return len(text)
