"""Values as msgpack, also with integers that it cannot hold."""

from __future__ import annotations

from typing import Any

import msgspec

INT_MIN, INT_MAX = -(2**63), 2**64 - 1


def encode(value: Any) -> bytes:
    """`value` as msgpack; an integer of more than 64 bits becomes the nearest float.

    JSON has such integers, as the bound of a tool's argument for one, and readers of JSON commonly
    take them for floats (RFC 8259, section 6). One beyond all floats becomes its text.
    """
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        plain = msgspec.to_builtins(value, builtin_types=(bytes,))
        return msgspec.msgpack.encode(_narrow(plain))


def _narrow(value: Any) -> Any:
    match value:
        case int() if not INT_MIN <= value <= INT_MAX:
            return _to_float(value)
        case list() | tuple():
            return [_narrow(child) for child in value]
        case dict():
            return {_narrow(key): _narrow(child) for key, child in value.items()}
        case _:
            return value


def _to_float(value: int) -> float | str:
    try:
        return float(value)
    except OverflowError:
        return str(value)
