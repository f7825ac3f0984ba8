"""What an answer's text is made of."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages import Channel


@dataclass(frozen=True, slots=True)
class Said:
    """Words: to the user, or the model's own reasoning."""

    text: str
    channel: Channel = "content"


@dataclass(frozen=True, slots=True)
class Opened:
    """A call of a declared tool begins; `index` counts the answer's calls from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """The next part of that call's arguments, which are JSON."""

    index: int
    text: str


Piece = Said | Opened | Arguments
