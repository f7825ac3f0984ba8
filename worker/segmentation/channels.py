"""Splits an answer in the messages of OpenAI's Harmony format into content, reasoning and calls.

Each message has a header with a channel and a recipient: `analysis` is reasoning, a declared
tool as recipient makes it a call, anything else is content. Source: OpenAI's description of the
format. Muse Spark has the same messages, with the recipient `self` for reasoning.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import regex

from protocol.events import TextKind
from worker.call_readers.deltas import ContentDelta, OutputDelta
from worker.segmentation.hidden_spans import HiddenSpans
from worker.segmentation.segmenter import Segmenter
from worker.tool_calls.markers import Markers
from worker.tool_calls.openings import IN_MESSAGE, PartialName
from worker.tool_calls.parser import CompiledSyntax, ParseStatus, ToolParser

logger = logging.getLogger(__name__)

State = Literal["header", "body", "call", "between"]

CHANNEL = regex.compile(r"<\|channel\|>\s*(?P<channel>\w+)")
RECIPIENT = regex.compile(r"\bto=(?P<recipient>[^\s<]+)")
NAME_BEGUN = regex.compile(r"\bto=functions\.(?P<name>[^\s<]*)\Z")
BODY = "<|message|>"
# What begins and ends reasoning: in Harmony, and in Muse's messages, which have no channels.
REASONING_CHANNEL = ("<|channel|>analysis<|message|>", "<|end|>")
REASONING_RECIPIENT = (" to=self<|message|>", "<|eom|>")
HEADER_STARTS = ("<|start|>", "<|channel|>")
ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|eom|>", "<|eot|>")
BODY_END = regex.compile("|".join(map(regex.escape, (*ENDS, *HEADER_STARTS))))
# What the first header may begin with; an answer that does not is content.
FIRST = (*HEADER_STARTS, BODY, "to=")
MAX_HEADER_CHARS = 512


@dataclass(frozen=True, slots=True)
class Header:
    """What a message's header tells: what its text is, and the name of a called tool.

    `is_text`: the header itself is content, because it calls a tool that is not declared.
    """

    kind: TextKind
    name: str = ""
    is_text: bool = False


class ChannelSegmenter:
    """The parser of one answer; `syntaxes` may be empty, if no tool may be called."""

    def __init__(self, syntaxes: Sequence[CompiledSyntax] = (), *, parallel: bool = True) -> None:
        self._parallel = parallel
        self._calls = next((c for c in syntaxes if not c.syntax.start), None)
        self._sections = [compiled for compiled in syntaxes if compiled.syntax.start]
        self._state: State = "header"
        self._buffer = ""
        # How much text was pushed, and which of it is hidden.
        self._pushed_chars = 0
        self._hidden = HiddenSpans()
        self._is_first = True
        self._header_text = ""
        self._kind: TextKind = "content"
        self._content = self._make_segmenter(0)
        self._parser: ToolParser | None = None
        # The kinds of text that earlier messages had.
        self._had: set[TextKind] = set()
        self._call_count = 0
        self._has_broken_call = False

    @property
    def in_reasoning(self) -> bool:
        """Whether the text so far ends in reasoning."""
        return self._state == "body" and self._kind == "reasoning"

    @property
    def has_broken_call(self) -> bool:
        """Whether the token limit ended the answer inside a call."""
        return self._has_broken_call or self._content.has_broken_call

    @property
    def ended(self) -> bool:
        """Whether the answer ends here because only one call was requested."""
        return bool(self._call_count) and not (self._parallel or self.has_broken_call)

    @property
    def in_arguments(self) -> bool:
        """Whether the text so far ends inside a call's JSON arguments."""
        if self._parser is not None:
            return self._parser.in_arguments
        return self._state == "body" and self._content.in_arguments

    @property
    def partial_name(self) -> PartialName | None:
        """The name that begins in a message's header, or in a section; None outside of these."""
        if self._state == "body" and self._kind == "content":
            return self._content.partial_name
        if self._state != "header" or self._calls is None or len(self._buffer) > MAX_HEADER_CHARS:
            return None
        begun = NAME_BEGUN.search(self._buffer)
        return PartialName(begun["name"], IN_MESSAGE, call=self._call_count) if begun else None

    @property
    def held_chars(self) -> int:
        """How many characters that may be shown are held back."""
        held = len(self._buffer) + (self._parser.held_chars if self._parser else 0)
        hidden_chars = self._hidden.chars_after(self._pushed_chars - held)
        return held - hidden_chars + self._content.held_chars

    def is_plain(self, text: str) -> bool:
        """Whether `text` is known to have no marker."""
        return False

    def push(self, text: str, hidden_chars: int = 0) -> list[OutputDelta]:
        """Parse more text, whose last `hidden_chars` are not shown, and return its deltas."""
        if hidden_chars:
            hidden = text[-hidden_chars:]
            self._hidden.add(self._pushed_chars + len(text) - hidden_chars, hidden)
        self._pushed_chars += len(text)
        self._buffer += text
        return self._advance(final=False, truncated=False)

    def finish(self, *, truncated: bool) -> list[OutputDelta]:
        """The deltas of the text held back; `truncated`: the token limit ended the answer."""
        deltas = self._advance(final=True, truncated=truncated)
        if self._state == "header" and not truncated:
            # A header without a message.
            self._add(deltas, self._buffer, "content")
            self._buffer = ""
        deltas += self._content.finish(truncated=truncated)
        return deltas

    def _advance(self, *, final: bool, truncated: bool) -> list[OutputDelta]:
        deltas: list[OutputDelta] = []
        progress = True
        while progress and not self.ended:
            match self._state:
                case "header":
                    progress = self._parse_header(deltas, final)
                case "body":
                    progress = self._parse_body(deltas, final)
                case "call":
                    progress = self._parse_call(deltas, final, truncated)
                case "between":
                    progress = self._parse_between(deltas, final)
        return deltas

    # ------------------------------------------------------------ one state; True: parse on

    def _parse_header(self, deltas: list[OutputDelta], final: bool) -> bool:
        text = self._buffer.lstrip()
        if self._is_first and not any(text.startswith(first) for first in FIRST):
            if not final and any(first.startswith(text) for first in FIRST):
                return False
            self._begin_body(deltas, Header("content"))
            return True
        self._is_first = False
        header, marker, rest = self._buffer.partition(BODY)
        if not marker:
            if len(self._buffer) > MAX_HEADER_CHARS:
                # It is read as text at once: its markers would begin the same header again.
                self._begin_body(deltas, Header("content"))
                self._buffer = ""
                self._add(deltas, header, "content", taken_chars=len(header))
                return True
            return False
        self._header_text, self._buffer = header + marker, rest
        told = self._read_header(header)
        self._is_first = False
        if told.name:
            self._start_call(told.name)
        else:
            self._begin_body(deltas, told)
        if told.is_text:
            shown = self._header_text
            self._add(deltas, shown, "content", taken_chars=len(shown))
        return True

    def _read_header(self, text: str) -> Header:
        channel, recipient = CHANNEL.search(text), RECIPIENT.search(text)
        name = recipient["recipient"].removeprefix("functions.") if recipient else ""
        if self._calls is not None and name in self._calls.names:
            return Header("content", name)
        if recipient and recipient["recipient"].startswith("functions."):
            logger.warning("the model called a tool that is not declared")
            return Header("content", is_text=True)
        if name == "self" or (channel is not None and channel["channel"] == "analysis"):
            return Header("reasoning")
        return Header("content")

    def _parse_body(self, deltas: list[OutputDelta], final: bool) -> bool:
        match = BODY_END.search(self._buffer, partial=not final)
        end = match.start() if match else len(self._buffer)
        self._add(deltas, self._buffer[:end], self._kind)
        self._buffer = self._buffer[end:]
        if match is None or match.partial:
            return False
        if self._kind == "content":
            deltas += self._content.finish(truncated=False)
            self._call_count = self._content.call_count
        self._state = "between"
        return True

    def _parse_call(self, deltas: list[OutputDelta], final: bool, truncated: bool) -> bool:
        parser = self._parser
        assert parser is not None
        deltas += parser.push(self._buffer)
        self._buffer = ""
        if final:
            deltas += parser.finish(truncated=truncated)
        if parser.status is ParseStatus.OPEN:
            return False
        self._call_count = parser.index
        self._parser, self._state = None, "between"
        match parser.status:
            case ParseStatus.NOT_A_CALL:
                _, _, text = (parser.kept_text + parser.rest).partition("\n")
                self._buffer = text
                self._begin_body(deltas, Header("content"))
                header = self._header_text
                self._add(deltas, header, "content", taken_chars=len(header))
            case ParseStatus.CUT:
                self._has_broken_call = True
            case _:
                self._buffer = parser.rest
        return True

    def _parse_between(self, deltas: list[OutputDelta], final: bool) -> bool:
        """After a message: markers that end it, then the next header."""
        text = self._buffer.lstrip()
        for end in ENDS:
            if text.startswith(end):
                self._buffer = text.removeprefix(end)
                return True
        markers = (*HEADER_STARTS, *ENDS)
        if not final and any(marker.startswith(text) for marker in markers):
            return False
        if not text:
            return False
        if text.startswith(HEADER_STARTS):
            self._state = "header"
        else:
            self._begin_body(deltas, Header("content"))
        return True

    # ------------------------------------------------------------

    def _start_call(self, name: str) -> None:
        assert self._calls is not None
        self._parser = ToolParser(self._calls, self._call_count, parallel=self._parallel, start="")
        # The header of a message stands for the name before its arguments.
        self._parser.push(f"{name}\n")
        self._state = "call"

    def _begin_body(self, deltas: list[OutputDelta], header: Header) -> None:
        self._is_first = False
        self._state, self._kind = "body", header.kind
        if header.kind == "content":
            self._content = self._make_segmenter(self._call_count)
        if header.kind in self._had:
            deltas.append(ContentDelta("\n\n", header.kind))

    def _make_segmenter(self, call_count: int) -> Segmenter:
        """The parser of one message's content."""
        segmenter = Segmenter(Markers(), self._sections, parallel=self._parallel)
        segmenter.call_count = call_count
        return segmenter

    def _add(
        self, deltas: list[OutputDelta], text: str, kind: TextKind, *, taken_chars: int = 0
    ) -> None:
        """Add text, which begins the buffer or, `taken_chars` long, was taken before it."""
        if not text:
            return
        self._had.add(kind)
        start = self._pushed_chars - len(self._buffer) - taken_chars
        hidden = self._hidden.within(start, text)
        if kind != "content":
            deltas.append(ContentDelta(text, kind, hidden))
            return
        end = 0
        for span in hidden:
            deltas += self._content.push(text[end : span[1]], span[1] - span[0])
            end = span[1]
        deltas += self._content.push(text[end:])
