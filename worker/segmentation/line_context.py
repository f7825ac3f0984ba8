"""Where in Markdown an answer's text has arrived: in code, in a quotation, in a sentence.

Markup of calls that the model only shows is there; a call of its own begins a line.
"""

from __future__ import annotations

import re

FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(?P<info>[^`]*)")
# A line that is one of these tags begins what is shown, up to the line with its end.
QUOTING_TAG = re.compile(
    r"\s*<(?P<end>/?)(?P<name>blockquote|code|example|pre|tool_(?:output|response|results?))>\s*"
)
# What is so far from the margin after an empty line is code.
INDENTED = re.compile(r" {4}|\t")
# So much of a line suffices to recognise a fence.
HEAD_CHARS = 80
QUOTATION_MARKS = frozenset("\"'`\u201c\u201d\u201e\u00ab\u00bb\u2018\u2019\u2039\u203a")


class LineContext:
    """The context at the end of the text that was added."""

    def __init__(self) -> None:
        self._fence = ""
        self._tag = ""
        # Whether there was text, and the last line was empty.
        self._has_text = self._after_empty = False
        self.start_line()

    def start_line(self) -> None:
        """Begin a line, whatever was before."""
        self._head = ""
        self._backticks = 0
        self._last = ""

    def add(self, text: str) -> None:
        """Add the next text."""
        line, line_break, rest = text.partition("\n")
        self._add_to_line(line)
        while line_break:
            self._end_line()
            line, line_break, rest = rest.partition("\n")
            self._add_to_line(line)

    @property
    def begins_line(self) -> bool:
        """Whether the line has white space only, outside of code."""
        return not (self._last or self._fence or self._tag or self._is_indented)

    @property
    def is_shown(self) -> bool:
        """Whether what follows is shown as code, or quoted."""
        return (
            bool(self._fence or self._tag)
            or self._is_indented
            or self._backticks % 2 == 1
            or self._last in QUOTATION_MARKS
            or self._head.lstrip().startswith(">")
        )

    @property
    def _is_indented(self) -> bool:
        """Whether the line is indented code."""
        return self._after_empty and self._has_text and bool(INDENTED.match(self._head))

    def _add_to_line(self, text: str) -> None:
        if len(self._head) < HEAD_CHARS:
            self._head += text[: HEAD_CHARS - len(self._head)]
        self._backticks += text.count("`")
        if stripped := text.rstrip():
            self._last = stripped[-1]

    def _end_line(self) -> None:
        fence = FENCE.fullmatch(self._head)
        if fence is not None and not self._fence:
            self._fence = fence[1]
        elif fence is not None and fence[1].startswith(self._fence) and not fence["info"].strip():
            self._fence = ""
        elif not self._fence and (tag := QUOTING_TAG.fullmatch(self._head)) is not None:
            if not self._tag and not tag["end"]:
                self._tag = tag["name"]
            elif self._tag == tag["name"] and tag["end"]:
                self._tag = ""
        is_empty = not self._last
        # The lines of indented code are one block.
        self._after_empty = is_empty or self._is_indented
        self._has_text = self._has_text or not is_empty
        self.start_line()
