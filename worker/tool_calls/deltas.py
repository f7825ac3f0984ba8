"""What an answer's text is made of. Each token makes some: msgspec makes them quickly."""

from __future__ import annotations

import msgspec

from protocol.messages import TextKind


class ContentDelta(msgspec.Struct, frozen=True):
    """Words: to the user, or the model's own reasoning."""

    text: str
    kind: TextKind = "content"


class ToolCallStart(msgspec.Struct, frozen=True):
    """A call of a declared tool begins; `index` counts the answer's calls from 0."""

    index: int
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True):
    """The next part of that call's arguments, which are JSON."""

    index: int
    text: str


OutputDelta = ContentDelta | ToolCallStart | ToolCallArguments
