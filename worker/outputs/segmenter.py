"""Cuts an answer's text into content, reasoning and tool calls, however its deltas are cut.

Markers are matched on text. A think block counts only where the prompt has opened
it or nothing has been said yet, and a call only where it calls a declared tool, so
that a marker which is only spoken of is text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.tool_calls.deltas import ContentDelta, OutputDelta
from worker.tool_calls.parser import ParseStatus, SyntaxPatterns, ToolParser

State = Literal["reasoning", "content", "call"]


@dataclass(frozen=True, slots=True)
class Markers:
    """A model's own marks: of its think block ("" where it has none), and those without meaning."""

    think_start: str = ""
    think_end: str = ""
    structural: tuple[str, ...] = ()


class Segmenter:
    """One answer. Line breaks at the borders of a think block belong to its markers."""

    def __init__(
        self,
        markers: Markers,
        calls: Sequence[SyntaxPatterns] = (),
        *,
        parallel: bool = True,
        reasoning: bool = False,
    ) -> None:
        self._markers = markers
        self._parallel = parallel
        self._bare = [patterns for patterns in calls if not patterns.syntax.start]
        self._marked = {p.syntax.start: p for p in calls if p.syntax.start}
        self._in_content = (*self._marked, *markers.structural)
        self._beginnings = frozenset(marker[0] for marker in self._in_content)
        self._state: State = "reasoning" if reasoning else "content"
        self._unread = ""
        self._nothing_said = True
        self._after_marker = reasoning
        self._reader: ToolParser | None = None
        self.calls = 0
        self.broken = False

    @property
    def reasoning(self) -> bool:
        """Whether the model is in its think block."""
        return self._state == "reasoning"

    @property
    def ended(self) -> bool:
        """Whether the answer is over, because only one call was asked for."""
        return bool(self.calls) and not (self._parallel or self.broken)

    @property
    def in_arguments(self) -> bool:
        """Whether the model is amid the arguments of a call, in JSON."""
        return self._reader is not None and self._reader.in_arguments

    @property
    def held(self) -> int:
        """How many characters are held back."""
        return len(self._unread) + (self._reader.held if self._reader else 0)

    def push(self, text: str) -> list[OutputDelta]:
        """What this text adds."""
        if self._is_plain(text):
            return [ContentDelta(text)] if text else []
        self._unread += text
        return self._advance(final=False, cut=False)

    def finish(self, *, cut: bool) -> list[OutputDelta]:
        """The rest; `cut`: the answer ended for want of tokens."""
        return self._advance(final=True, cut=cut)

    def _is_plain(self, text: str) -> bool:
        """Whether it is content and nothing else, as most of most answers is: seen at a glance."""
        return (
            self._state == "content"
            and not (self._unread or self._nothing_said or self._after_marker or self.calls)
            and self._beginnings.isdisjoint(text)
        )

    def _advance(self, *, final: bool, cut: bool) -> list[OutputDelta]:
        deltas: list[OutputDelta] = []
        progress = True
        while progress and not self.ended:
            match self._state:
                case "reasoning":
                    progress = self._read_reasoning(deltas, final)
                case "content":
                    progress = self._read_content(deltas, final)
                case "call":
                    progress = self._read_call(deltas, final, cut)
        return deltas

    # ------------------------------------------------------------ each is True when there is more

    def _read_reasoning(self, deltas: list[OutputDelta], final: bool) -> bool:
        self._drop_line_breaks()
        said, found, rest = self._unread.partition(self._markers.think_end)
        if found:
            self._say(deltas, said.rstrip("\n"), "reasoning")
            self._unread, self._state, self._after_marker = rest, "content", True
            return True
        keep = len(said) if final else possible_start(said, [self._markers.think_end])
        if not final:
            keep = len(said[:keep].rstrip("\n"))
        self._say(deltas, said[:keep], "reasoning")
        self._unread = said[keep:]
        return False

    def _read_content(self, deltas: list[OutputDelta], final: bool) -> bool:
        self._drop_line_breaks()
        if self._nothing_said and (opened := self._open_first(final)) is not None:
            return opened
        markers = self._in_content
        found = [(place, -len(m), m) for m in markers if (place := self._unread.find(m)) >= 0]
        if not found:
            keep = len(self._unread) if final else possible_start(self._unread, markers)
            self._say(deltas, self._unread[:keep], "content")
            self._unread = self._unread[keep:]
            return False
        place, _, marker = min(found)
        self._say(deltas, self._unread[:place], "content")
        self._unread = self._unread[place + len(marker) :]
        if marker in self._marked:
            self._begin_call(self._marked[marker])
        return True

    def _open_first(self, final: bool) -> bool | None:
        """A block that only stands first: True when begun, False to wait, None when it is not."""
        start = self._markers.think_start
        text = self._unread.lstrip()
        if start and text.startswith(start):
            self._unread = text.removeprefix(start)
            self._state, self._after_marker = "reasoning", True
            return True
        if not final and (not text or (start and start.startswith(text))):
            return False if start or self._bare else None
        for patterns in self._bare:
            if text and patterns.may_begin(self._unread):
                self._begin_call(patterns)
                return True
        return None

    def _read_call(self, deltas: list[OutputDelta], final: bool, cut: bool) -> bool:
        reader = self._reader
        assert reader is not None
        deltas += reader.push(self._unread)
        self._unread = ""
        if final:
            deltas += reader.finish(cut=cut)
        self.calls = reader.index
        match reader.status:
            case ParseStatus.OPEN:
                return False
            case ParseStatus.DONE:
                self._unread, self._nothing_said = reader.rest, True
            case ParseStatus.NOT_A_CALL:
                # The marker is text, and what follows may still hold a call.
                start = reader.start
                self._say(deltas, start, "content")
                self._unread, self._nothing_said = reader.raw.removeprefix(start), False
            case ParseStatus.BROKEN:
                self.calls, self.broken = reader.index + 1, True
                self._say(deltas, reader.raw, "content")
        self._reader, self._state = None, "content"
        return True

    # ------------------------------------------------------------

    def _begin_call(self, patterns: SyntaxPatterns) -> None:
        self._state = "call"
        self._reader = ToolParser(patterns, self.calls, parallel=self._parallel)

    def _say(
        self, deltas: list[OutputDelta], text: str, kind: Literal["content", "reasoning"]
    ) -> None:
        if text:
            deltas.append(ContentDelta(text, kind))
            if kind == "content" and text.strip():
                self._nothing_said = False

    def _drop_line_breaks(self) -> None:
        if self._after_marker:
            self._unread = self._unread.lstrip("\n")
            self._after_marker = not self._unread


def possible_start(text: str, markers: Sequence[str]) -> int:
    """Where the longest tail of `text` that begins one of `markers` starts; else its end."""
    longest = max((len(marker) for marker in markers), default=1) - 1
    for start in range(max(0, len(text) - longest), len(text)):
        if any(marker.startswith(text[start:]) for marker in markers):
            return start
    return len(text)
