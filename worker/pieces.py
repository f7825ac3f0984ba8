"""What an answer's text is made of. Each token makes some: msgspec makes them quickly."""

from __future__ import annotations

import msgspec

from protocol.messages import Channel


class Said(msgspec.Struct, frozen=True):
    """Words: to the user, or the model's own reasoning."""

    text: str
    channel: Channel = "content"


class Opened(msgspec.Struct, frozen=True):
    """A call of a declared tool begins; `index` counts the answer's calls from 0."""

    index: int
    name: str


class Arguments(msgspec.Struct, frozen=True):
    """The next part of that call's arguments, which are JSON."""

    index: int
    text: str


Piece = Said | Opened | Arguments
