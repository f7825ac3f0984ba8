"""The base classes of all that is sent over the pipe: how structs are encoded."""

from __future__ import annotations

import msgspec


class Data(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A plain value inside a message."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=str.lower, gc=False):
    """A value encoded with its type's name: a message, an event, a prompt or a grammar."""
