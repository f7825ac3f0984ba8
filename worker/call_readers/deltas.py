"""The parts that an answer's text is parsed into.

Every token creates some, so they are msgspec structs, which are fast to create.
"""

from __future__ import annotations

import msgspec

from protocol.events import TextKind


class ContentDelta(msgspec.Struct, frozen=True):
    """Text of the answer, or of the model's reasoning; the spans of `hidden` are not shown."""

    text: str
    kind: TextKind = "content"
    hidden: tuple[tuple[int, int], ...] = ()


class ToolCallStart(msgspec.Struct, frozen=True):
    """A call of a declared tool starts; `index` is its number in the answer, from 0."""

    index: int
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True):
    """The next part of the arguments of call `index`, as JSON text."""

    index: int
    text: str


OutputDelta = ContentDelta | ToolCallStart | ToolCallArguments
