"""Parses one section of tool calls as its text arrives.

No text is lost: it is held back until the name of a declared tool is complete, and becomes
content if it is no call. JSON arguments are streamed; arguments in other formats are passed
on once their section is complete.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regex import Match, Pattern

from worker.tool_calls.deltas import OutputDelta, ToolCallArguments, ToolCallStart
from worker.tool_calls.partial_json import NotJson, PartialJsonObject
from worker.tool_calls.syntax import CallSyntax, StreamingPatterns, Tool, compile_pattern


class ParseStatus(enum.Enum):
    """The state of a section."""

    OPEN = "more text is needed"
    DONE = "the section has calls, and `rest` follows it"
    NOT_A_CALL = "there is no call: `raw_text` is content"
    CUT = "the token limit ended the answer inside a call"
    BROKEN = "a call has started but is invalid: its text is `raw_text`"


@dataclass(frozen=True, slots=True)
class CompiledStreamingPatterns:
    """`StreamingPatterns` compiled for the declared tools."""

    header: Pattern[str]
    footer: Pattern[str]
    section_end: Pattern[str]
    next_header: Pattern[str] | None


class CompiledSyntax:
    """A `CallSyntax` with its patterns compiled for one request's tools."""

    def __init__(self, syntax: CallSyntax, tools: Sequence[Tool], names: Sequence[str]) -> None:
        self.syntax = syntax
        self.tools = tools
        self.names = frozenset(names)
        self.opening = None if syntax.opening is None else compile_pattern(syntax.opening, names)
        self.streaming = [self._compile(patterns, names) for patterns in syntax.streaming]

    def may_begin(self, text: str) -> bool:
        """Whether `text` begins a section, or could with more text."""
        headers = [patterns.header for patterns in self.streaming]
        patterns = headers if self.opening is None else [*headers, self.opening]
        return any(pattern.match(text, partial=True) for pattern in patterns)

    @staticmethod
    def _compile(patterns: StreamingPatterns, names: Sequence[str]) -> CompiledStreamingPatterns:
        return CompiledStreamingPatterns(
            header=compile_pattern(patterns.header, names),
            footer=compile_pattern(patterns.footer, names),
            section_end=compile_pattern(patterns.section_end, names),
            next_header=(
                None
                if patterns.next_header is None
                else compile_pattern(patterns.next_header, names)
            ),
        )


class ToolParser:
    """Parses one section from the end of its start marker; its first call gets number `index`.

    If not `parallel`, it stops after the first call.
    """

    def __init__(self, compiled: CompiledSyntax, index: int, *, parallel: bool) -> None:
        self.status = ParseStatus.OPEN
        self.rest = ""
        self.index = index
        self._compiled = compiled
        self._parallel = parallel
        self._buffer = ""
        # The text parsed since the end of the last complete call.
        self._parsed = compiled.syntax.start
        self._patterns: CompiledStreamingPatterns | None = None
        self._step = self._parse_header
        self._arguments = PartialJsonObject()

    @property
    def start_marker(self) -> str:
        """The section's start marker."""
        return self._compiled.syntax.start

    @property
    def raw_text(self) -> str:
        """The text, with markers, that is not part of a complete call."""
        return self._parsed + self._buffer

    @property
    def held_chars(self) -> int:
        """How many characters are held back."""
        return len(self._buffer) + (len(self._parsed) if self._patterns is None else 0)

    @property
    def in_arguments(self) -> bool:
        """Whether the text so far ends inside a call's JSON arguments."""
        return self.status is ParseStatus.OPEN and self._step == self._parse_arguments

    def push(self, text: str) -> list[OutputDelta]:
        """Parse more text and return its deltas; updates `status`."""
        self._buffer += text
        deltas: list[OutputDelta] = []
        while self.status is ParseStatus.OPEN and (step := self._step()) is not None:
            deltas += step
        return deltas

    def finish(self, *, truncated: bool) -> list[OutputDelta]:
        """End the text; `truncated`: by the token limit, not by the model."""
        if self.status is not ParseStatus.OPEN:
            return []
        if self._step == self._parse_between:
            self._buffer = ""
            self.status = ParseStatus.DONE
        elif self._step == self._buffer_section and not truncated:
            return self._parse_section(self._buffer, "")
        else:
            self.status = self._status_at_end(truncated=truncated)
        return []

    def _status_at_end(self, *, truncated: bool) -> ParseStatus:
        """The status of a call that is not complete; of one that is cut the beginning was sent."""
        if self._step not in (self._parse_arguments, self._parse_footer):
            return ParseStatus.NOT_A_CALL
        return ParseStatus.CUT if truncated else ParseStatus.BROKEN

    # ------------------------------------------------------------ steps; None: no progress

    def _parse_header(self) -> list[OutputDelta] | None:
        for patterns in self._compiled.streaming:
            match = patterns.header.match(self._buffer, partial=True)
            if match is not None:
                if match.partial:
                    return None
                self._patterns = patterns
                return self._start_call(match)
        opening = self._compiled.opening
        match = opening.match(self._buffer, partial=True) if opening else None
        if match is None:
            self.status = ParseStatus.NOT_A_CALL
        elif not match.partial:
            self._step = self._buffer_section
            return []
        return None

    def _start_call(self, match: Match[str]) -> list[OutputDelta]:
        self._consume(match.end())
        self._arguments = PartialJsonObject()
        self._step = self._parse_arguments
        return [ToolCallStart(self.index, match["name"])]

    def _parse_arguments(self) -> list[OutputDelta] | None:
        if not self._buffer:
            return None
        try:
            end = self._arguments.push(self._buffer)
        except NotJson:
            self.status = ParseStatus.BROKEN
            return None
        text = self._consume(end)
        if self._arguments.complete:
            self._step = self._parse_footer
        return [ToolCallArguments(self.index, text)]

    def _parse_footer(self) -> list[OutputDelta] | None:
        assert self._patterns is not None
        match = self._patterns.footer.match(self._buffer, partial=True)
        if match is None:
            self.status = ParseStatus.BROKEN
            return None
        if match.partial:
            return None
        self._consume(match.end())
        self._parsed = ""
        self.index += 1
        self._step = self._parse_between
        return [] if self._parallel else None

    def _parse_between(self) -> list[OutputDelta] | None:
        """After a call: the next call, or the end of the section, whose marker may be missing."""
        assert self._patterns is not None
        next_header, section_end = self._patterns.next_header, self._patterns.section_end
        match = next_header.match(self._buffer, partial=True) if next_header else None
        if match is not None:
            return None if match.partial else self._start_call(match)
        match = section_end.match(self._buffer, partial=True)
        if match is not None and match.partial:
            return None
        if match is not None:
            self._consume(match.end())
        self.rest, self._buffer, self._parsed = self._buffer, "", ""
        self.status = ParseStatus.DONE
        return None

    def _buffer_section(self) -> list[OutputDelta] | None:
        end = self._compiled.syntax.end
        if not end:
            return None
        body, marker, rest = self._buffer.partition(end)
        return self._parse_section(body, marker + rest) if marker else None

    # ------------------------------------------------------------

    def _consume(self, count: int) -> str:
        """Remove `count` characters from the buffer and return them."""
        text, self._buffer = self._buffer[:count], self._buffer[count:]
        self._parsed += text
        return text

    def _parse_section(self, body: str, after: str) -> list[OutputDelta]:
        """Parse a complete section; `after` is its end marker and the text that follows."""
        try:
            parsed = self._compiled.syntax.parse(body, self._compiled.tools)
            calls = [
                self._validate(call) for call in (parsed if isinstance(parsed, list) else [parsed])
            ]
        except Exception:
            # mlx-lm's parsers raise exceptions of any type for text that is no call.
            calls = []
        if not calls:
            self.status = ParseStatus.NOT_A_CALL
            return []
        self.rest = after.removeprefix(self._compiled.syntax.end)
        self.status = ParseStatus.DONE
        self._parsed = self._buffer = ""
        deltas: list[OutputDelta] = []
        for name, arguments in calls if self._parallel else calls[:1]:
            deltas += [ToolCallStart(self.index, name), ToolCallArguments(self.index, arguments)]
            self.index += 1
        return deltas

    def _validate(self, call: Any) -> tuple[str, str]:
        """The call's name, and its arguments as JSON.

        Raises:
            ValueError: the tool is not declared, or the arguments are no JSON object.
        """
        name, arguments = call["name"], call.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if name not in self._compiled.names or not isinstance(arguments, dict):
            raise ValueError(name)
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate, which JSON can only escape
            text = json.dumps(arguments, allow_nan=False)
        return name, text
