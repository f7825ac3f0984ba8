"""How everything that crosses the pipe is encoded."""

from __future__ import annotations

import msgspec


class Data(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A plain value inside a message."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=str.lower, gc=False):
    """A value that names its type on the wire: a message, an event or a prompt."""
