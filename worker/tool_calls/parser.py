"""Parses one section of tool calls as its text arrives.

No text is lost: it is held back until a call of a declared tool is certain, and becomes content
if there is none. Once a call has started, its text is never content. Arguments are streamed
as far as the syntax allows.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Sequence
from typing import Protocol

import regex

from worker.call_readers.call_writer import CallWriter
from worker.call_readers.declared_tools import SPACE, DeclaredTools, Tool
from worker.call_readers.deltas import OutputDelta
from worker.call_readers.json_calls import JsonObjectReader, JsonObjects, NamedJson, NamedJsonReader
from worker.call_readers.literal_calls import LiteralArguments, LiteralCallReader
from worker.call_readers.source import Reading, Source, Unreadable
from worker.call_readers.tagged_calls import TaggedArguments, TaggedReader
from worker.tool_calls.openings import (
    SEPARATORS,
    PartialName,
    find_partial_name,
    openings_of,
)
from worker.tool_calls.syntax import CallForm, CallSyntax

logger = logging.getLogger(__name__)

# So far from the beginning of a section, or the end of a call, a name is looked for.
MAX_OPENING_CHARS = 512


class ParseStatus(enum.Enum):
    """The state of a section."""

    OPEN = "more text is needed"
    DONE = "the section has calls, and ends"
    NOT_A_CALL = "there is no call, or none any more: the text kept is content"
    CUT = "the token limit ended the answer inside a call"
    BROKEN = "the answer ended inside a call, or the call's arguments are invalid"


class FormReader(Protocol):
    """Reads one call of one form; `opening` matches where such a call begins."""

    opening: regex.Pattern[str]

    def read(self, source: Source, writer: CallWriter) -> Reading[None]:
        """Read one call, which starts where `opening` matches.

        Raises:
            Unreadable: it is no call, or not complete.
        """


class CompiledSyntax:
    """A `CallSyntax` compiled for one request's tools."""

    def __init__(self, syntax: CallSyntax, tools: Sequence[Tool], names: Sequence[str]) -> None:
        self.syntax = syntax
        declared = DeclaredTools(tools, names)
        self.names = declared.names
        self.readers = [make_reader(form, declared, syntax) for form in syntax.forms]
        self.openings = openings_of(syntax, declared)
        end = f"(?:{declared.pattern(syntax.end)})" if syntax.end else ""
        self.end = regex.compile(end) if end else None
        # An end marker after superfluous brackets or commas, or the end of a list.
        self.tails = {
            is_list: regex.compile("|".join(filter(None, (
                rf"[\s\]}},;]{{0,64}}{end}" if end else "",
                rf"{SPACE}\]" if is_list else "",
            ))) or r"")
            for is_list in (False, True)
        }  # fmt: skip

    def begins(self, text: str) -> bool | None:
        """Whether `text` begins with a call, or a list of calls; None: it could with more text."""
        text = text.lstrip()
        texts = [text, text[1:].lstrip()] if text.startswith("[") else [text]
        matches = [
            reader.opening.match(text, partial=True) for reader in self.readers for text in texts
        ]
        found = [match for match in matches if match is not None]
        if any(not match.partial for match in found):
            return True
        return None if found else False


def make_reader(form: CallForm, tools: DeclaredTools, syntax: CallSyntax) -> FormReader:
    """The reader of a form in the sections of `syntax`."""
    match form:
        case JsonObjects():
            return JsonObjectReader(form, tools)
        case NamedJson():
            return NamedJsonReader(form, tools)
        case TaggedArguments():
            return TaggedReader(form, tools, syntax.start, syntax.end)
        case LiteralArguments():
            return LiteralCallReader(form, tools)


class ToolParser:
    """Parses one section from the end of its start marker; its first call gets number `index`.

    If not `parallel`, it stops after the first call. `start` is the marker that the section
    began with, as the answer has it. `whole`: only complete calls count.
    """

    def __init__(
        self,
        compiled: CompiledSyntax,
        index: int,
        *,
        parallel: bool,
        start: str | None = None,
        whole: bool = False,
    ) -> None:
        self.status = ParseStatus.OPEN
        self.start_marker = compiled.syntax.start if start is None else start
        self._compiled = compiled
        self._parallel = parallel
        self._whole = whole
        self._source = Source()
        self._writer = CallWriter(index)
        # Whether the start marker is part of the text of no call so far.
        self._marker_kept = True
        self._has_deltas = False
        self._is_list = False
        self._pushed_chars = 0
        self._released_chars = 0
        self._reading = self._read_section()

    @property
    def index(self) -> int:
        """The number of the next call that is not complete."""
        return self._writer.index

    @property
    def rest(self) -> str:
        """The text after the section, once it is done."""
        return self._source.rest

    @property
    def kept_marker(self) -> str:
        """The start marker; "" if the section has calls."""
        return self.start_marker if self._marker_kept else ""

    @property
    def kept_text(self) -> str:
        """The text that was read, but is not part of a call."""
        return self._source.kept

    @property
    def held_chars(self) -> int:
        """How many characters are held back."""
        marker = 0 if self._has_deltas else len(self.start_marker)
        return marker + self._pushed_chars - self._released_chars

    @property
    def in_arguments(self) -> bool:
        """Whether the text so far ends inside a call's JSON arguments."""
        return self.status is ParseStatus.OPEN and self._writer.in_json

    @property
    def partial_name(self) -> PartialName | None:
        """The name that begins a call of the section; None outside of it."""
        source, openings = self._source, self._compiled.openings
        if self.status is not ParseStatus.OPEN or self._writer.in_json:
            return None
        if self._writer.open:
            return PartialName("", (), True, self.index)
        if source.kept_chars + len(source.rest) > MAX_OPENING_CHARS:
            return None
        text, is_first = source.kept + source.rest, self._marker_kept
        return find_partial_name(
            openings, text, is_first=is_first, in_list=self._is_list, call=self.index
        )

    def push(self, text: str) -> list[OutputDelta]:
        """Parse more text and return its deltas; updates `status`."""
        self._pushed_chars += len(text)
        self._source.push(text)
        return self._advance()

    def finish(self, *, truncated: bool) -> list[OutputDelta]:
        """End the text; `truncated`: by the token limit, not by the model."""
        self._source.finish(truncated=truncated or self._whole)
        deltas = self._advance()
        if self.status is ParseStatus.CUT and not truncated:
            self.status = ParseStatus.BROKEN
        return deltas

    def _advance(self) -> list[OutputDelta]:
        if self.status is ParseStatus.OPEN:
            try:
                next(self._reading)
            except StopIteration:
                self.status = ParseStatus.DONE
            except Unreadable:
                self._stop_reading()
        deltas = self._writer.take()
        if deltas:
            self._released_chars = self._source.taken_chars
            self._has_deltas = True
        return deltas

    def _stop_reading(self) -> None:
        """The text is unreadable from here on, or ends here."""
        source, writer = self._source, self._writer
        if writer.open:
            if not source.final:
                logger.warning("the arguments of a tool call are not JSON")
                self._reading = self._pass_arguments()
                self._advance_broken()
                return
            self.status = ParseStatus.CUT if source.truncated else ParseStatus.BROKEN
            if not source.truncated:
                writer.write(source.rest)
            writer.end()
        elif source.final and source.truncated and writer.named and not self._whole:
            writer.start(writer.named)
            writer.end()
            self.status = ParseStatus.CUT
        else:
            self.status = ParseStatus.NOT_A_CALL

    def _advance_broken(self) -> None:
        try:
            next(self._reading)
        except StopIteration:
            self.status = ParseStatus.BROKEN

    # ------------------------------------------------------------ readings

    def _read_section(self) -> Reading[None]:
        source, writer = self._source, self._writer
        self._is_list = (yield from source.skip_space()) == "["
        if self._is_list:
            source.take(1)
            yield from source.skip_space()
        while (reader := (yield from self._choose(0))) is not None:
            yield from reader.read(source, writer)
            writer.end()
            source.forget()
            self._marker_kept = False
            if not self._parallel:
                return
            position = yield from self._next_call()
            if position is None:
                yield from self._read_tail(self._is_list)
                return
            source.take(position)
        raise Unreadable

    def _choose(self, position: int) -> Reading[FormReader | None]:
        """The reader of the call at `position`; None if there is none."""
        source = self._source
        while True:
            waits = False
            for reader in self._compiled.readers:
                match = reader.opening.match(source.rest, position, partial=not source.final)
                if match is not None and not match.partial:
                    return reader
                waits = waits or match is not None
            if not waits:
                return None
            yield

    def _next_call(self) -> Reading[int | None]:
        """Where the next call of the section begins; None if there is none."""
        source = self._source
        while True:
            separators = SEPARATORS.match(source.rest)
            assert separators is not None
            position = separators.end()
            if position < len(source.rest) or source.final:
                break
            yield
        if position == len(source.rest):
            return None
        return position if (yield from self._choose(position)) is not None else None

    def _read_tail(self, is_list: bool) -> Reading[None]:
        tail = yield from self._source.take_match(self._compiled.tails[is_list])
        if is_list and tail is not None and tail[0].strip() == "]":
            yield from self._read_tail(False)

    def _pass_arguments(self) -> Reading[None]:
        """Pass the text up to the end marker on as the arguments that the model wrote."""
        source, writer, end = self._source, self._writer, self._compiled.end
        writer.in_json = False
        while True:
            match = end.search(source.rest, partial=not source.final) if end else None
            writer.write(source.take(match.start() if match else len(source.rest)))
            if match is not None and not match.partial:
                source.take(match.end() - match.start())
                break
            if source.final:
                break
            yield
        writer.end()
