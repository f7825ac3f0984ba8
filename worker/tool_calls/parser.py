"""Reads one section of tool calls as its text comes in.

Nothing is lost: until a declared tool's name has come, all is held back, and is
prose again where it becomes no call. Arguments in JSON are passed on as they
come; those in other syntaxes once their section is whole.
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
from worker.tool_calls.syntax import CallSyntax, StreamedCalls, Tool, compile_pattern


class ParseStatus(enum.Enum):
    """What a section has turned out to be."""

    OPEN = "more text is needed"
    DONE = "calls, and then `rest`"
    NOT_A_CALL = "no call at all: `raw` is text"
    BROKEN = "a call that was announced and became none: its text is `raw`"


@dataclass(frozen=True, slots=True)
class StreamedPatterns:
    """`StreamedCalls` for the declared tools."""

    header: Pattern[str]
    footer: Pattern[str]
    close: Pattern[str]
    more: Pattern[str] | None


class SyntaxPatterns:
    """A syntax for the declared tools: made once a request."""

    def __init__(self, syntax: CallSyntax, tools: Sequence[Tool], names: Sequence[str]) -> None:
        self.syntax = syntax
        self.tools = tools
        self.names = frozenset(names)
        self.opening = None if syntax.opening is None else compile_pattern(syntax.opening, names)
        self.streamed = [self._compile(calls, names) for calls in syntax.streamed]

    def may_begin(self, text: str) -> bool:
        """Whether `text` begins such a section, or could with more of it."""
        headers = [streamed.header for streamed in self.streamed]
        patterns = headers if self.opening is None else [*headers, self.opening]
        return any(pattern.match(text, partial=True) for pattern in patterns)

    @staticmethod
    def _compile(calls: StreamedCalls, names: Sequence[str]) -> StreamedPatterns:
        return StreamedPatterns(
            compile_pattern(calls.header, names),
            compile_pattern(calls.footer, names),
            compile_pattern(calls.close, names),
            None if calls.more is None else compile_pattern(calls.more, names),
        )


class ToolParser:
    """One section, from after its start marker. Its first call will have the number `index`."""

    def __init__(self, patterns: SyntaxPatterns, index: int, *, parallel: bool) -> None:
        self.status = ParseStatus.OPEN
        self.rest = ""
        self.index = index
        self._patterns = patterns
        self._parallel = parallel
        self._unread = ""
        self._raw = patterns.syntax.start
        self._streamed: StreamedPatterns | None = None
        self._step = self._read_header
        self._arguments = PartialJsonObject()

    @property
    def start(self) -> str:
        """The section's start marker."""
        return self._patterns.syntax.start

    @property
    def raw(self) -> str:
        """The text, markers and all, that belongs to no complete call."""
        return self._raw + self._unread

    @property
    def held(self) -> int:
        """How many characters of it were neither announced nor turned down."""
        return len(self._unread) + (len(self._raw) if self._streamed is None else 0)

    @property
    def in_arguments(self) -> bool:
        """Whether it is amid a call's JSON."""
        return self.status is ParseStatus.OPEN and self._step == self._read_arguments

    def push(self, text: str) -> list[OutputDelta]:
        """What this text adds. Look at `verdict` afterwards."""
        self._unread += text
        deltas: list[OutputDelta] = []
        while self.status is ParseStatus.OPEN and (step := self._step()) is not None:
            deltas += step
        return deltas

    def finish(self, *, cut: bool) -> list[OutputDelta]:
        """No more text comes; `cut`: for want of tokens, not because the model had ended."""
        if self.status is not ParseStatus.OPEN:
            return []
        if self._step == self._read_between:
            self._unread = ""
            self.status = ParseStatus.DONE
        elif self._step == self._read_whole and not cut:
            return self._parse(self._unread, "")
        else:
            self._give_up()
        return []

    # ------------------------------------------------------------ steps: None waits for text

    def _read_header(self) -> list[OutputDelta] | None:
        for streamed in self._patterns.streamed:
            match = streamed.header.match(self._unread, partial=True)
            if match is not None:
                if match.partial:
                    return None
                self._streamed = streamed
                return self._open(match)
        opening = self._patterns.opening
        match = opening.match(self._unread, partial=True) if opening else None
        if match is None:
            self.status = ParseStatus.NOT_A_CALL
        elif not match.partial:
            self._step = self._read_whole
            return []
        return None

    def _open(self, match: Match[str]) -> list[OutputDelta]:
        self._take(match.end())
        self._arguments = PartialJsonObject()
        self._step = self._read_arguments
        return [ToolCallStart(self.index, match["name"])]

    def _read_arguments(self) -> list[OutputDelta] | None:
        if not self._unread:
            return None
        try:
            end = self._arguments.push(self._unread)
        except NotJson:
            self.status = ParseStatus.BROKEN
            return None
        text = self._take(end)
        if self._arguments.complete:
            self._step = self._read_footer
        return [ToolCallArguments(self.index, text)]

    def _read_footer(self) -> list[OutputDelta] | None:
        assert self._streamed is not None
        match = self._streamed.footer.match(self._unread, partial=True)
        if match is None:
            self.status = ParseStatus.BROKEN
            return None
        if match.partial:
            return None
        self._take(match.end())
        self._raw = ""
        self.index += 1
        self._step = self._read_between
        return [] if self._parallel else None

    def _read_between(self) -> list[OutputDelta] | None:
        """After a call: another one, or the section's end, which may be missing."""
        assert self._streamed is not None
        more, close = self._streamed.more, self._streamed.close
        match = more.match(self._unread, partial=True) if more else None
        if match is not None:
            return None if match.partial else self._open(match)
        match = close.match(self._unread, partial=True)
        if match is not None and match.partial:
            return None
        if match is not None:
            self._take(match.end())
        self.rest, self._unread, self._raw = self._unread, "", ""
        self.status = ParseStatus.DONE
        return None

    def _read_whole(self) -> list[OutputDelta] | None:
        end = self._patterns.syntax.end
        if not end:
            return None
        body, found, rest = self._unread.partition(end)
        return self._parse(body, found + rest) if found else None

    # ------------------------------------------------------------

    def _take(self, count: int) -> str:
        """Mark so many characters as read."""
        text, self._unread = self._unread[:count], self._unread[count:]
        self._raw += text
        return text

    def _give_up(self) -> None:
        opened = self._step in (self._read_arguments, self._read_footer)
        self.status = ParseStatus.BROKEN if opened else ParseStatus.NOT_A_CALL

    def _parse(self, body: str, after: str) -> list[OutputDelta]:
        """The calls of a whole section; `after` is its end marker and what follows."""
        try:
            parsed = self._patterns.syntax.parse(body, self._patterns.tools)
            calls = parsed if isinstance(parsed, list) else [parsed]
            read = [self._read_call(call) for call in calls]
        except Exception:
            # mlx-lm's parsers raise what their code happens to: whatever it is, this is no call.
            read = []
        if not read:
            self.status = ParseStatus.NOT_A_CALL
            return []
        self.rest = after.removeprefix(self._patterns.syntax.end)
        self.status = ParseStatus.DONE
        self._raw = self._unread = ""
        deltas: list[OutputDelta] = []
        for name, arguments in read if self._parallel else read[:1]:
            deltas += [ToolCallStart(self.index, name), ToolCallArguments(self.index, arguments)]
            self.index += 1
        return deltas

    def _read_call(self, call: Any) -> tuple[str, str]:
        """Name and arguments as JSON.

        Raises:
            ValueError: it calls no declared tool, or its arguments are no JSON object.
        """
        name, arguments = call["name"], call.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if name not in self._patterns.names or not isinstance(arguments, dict):
            raise ValueError(name)
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can only escape
            text = json.dumps(arguments, allow_nan=False)
        return name, text
