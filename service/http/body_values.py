"""What a large body will take once it is decoded, found before it is.

msgspec (0.22) holds the interpreter lock while it parses, so that nothing else runs: 1 ms per MB of
text, but 0.5 s for a million fields of one object. The time goes with the values, which are counted
outside of strings: a text may have any brackets, commas and colons.
"""

from __future__ import annotations

import re

from service.errors import InvalidRequest

# The most of `count_values`. The worst body of this size held the lock for 0.15 s.
MAX_VALUES = 2**21
# What a list, an object or a field counts as: it takes about as long as this many numbers.
PARENT_VALUES = 8
# A body is searched in parts of this size: a search holds the lock, too.
PART_BYTES = 256 * 1024
# The longest text that the expressions below find.
LONGEST_WIDE_BYTES = 4
# Python stores a text with one character from here on with this many bytes for each character.
WIDE_TEXTS = (
    (4, re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")),
    (2, re.compile(rb"[\xc4-\xef]|\\u")),
)
# Of a decoded element of a list or an object, besides its text.
ELEMENT_BYTES = 40


def estimate_decoded_bytes(body: bytes | bytearray) -> int:
    """The memory of a decoded body, rather too much than too little.

    Its text takes one byte for each character, or more if it has wide ones; its values have a size
    of their own.

    Raises:
        InvalidRequest: the body has more than `MAX_VALUES` values.
    """
    width = 1
    for start in range(0, len(body), PART_BYTES):
        width = max(width, width_of(body[start : start + PART_BYTES + LONGEST_WIDE_BYTES - 1]))
    values = count_values(body)
    if values > MAX_VALUES:
        raise InvalidRequest(
            f"The body has more than {MAX_VALUES} values; "
            f"a list, an object and a field count as {PARENT_VALUES}."
        )
    return len(body) * width + min(ELEMENT_BYTES * values, 8 * len(body))


def count_values(body: bytes | bytearray) -> int:
    """The commas and strings, and `PARENT_VALUES` for each list, object and field.

    It is exact up to where the body is not JSON, and stops above `MAX_VALUES`.
    """
    values = quotes = start = 0
    while start < len(body) and values + quotes // 2 <= MAX_VALUES:
        part = body[start : start + PART_BYTES]
        if (len(part) - len(part.rstrip(b"\\"))) % 2:
            # With the character that is escaped.
            part += body[start + len(part) : start + len(part) + 1]
        start += len(part)
        pieces = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(pieces[quotes % 2 :: 2])
        parents = outside.count(b"[") + outside.count(b"{") + outside.count(b":")
        values += outside.count(b",") + PARENT_VALUES * parents
        quotes += len(pieces) - 1
    return values + quotes // 2


def width_of(part: bytes | bytearray) -> int:
    """The bytes with which Python stores each character of a text with this part."""
    if part.isascii() and b"\\u" not in part:
        return 1
    return next((width for width, wide in WIDE_TEXTS if wide.search(part)), 1)
