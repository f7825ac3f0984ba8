"""Vectors and scores of a request as they arrive, and their forms in an answer."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from protocol.events import Embedded, Finished
from service.generation.answers import describe_use
from service.inflight.request import InflightRequest
from service.schema.usage import TextsUsage

VALUE_BYTES = 4
# A number has at most this many characters in JSON.
NUMBER_CHARS = 24


@dataclass(frozen=True, slots=True)
class Vectors:
    """The values of each text, as float32 bytes in little-endian order, and what they took."""

    rows: list[bytes]
    prompt_tokens: int
    use: TextsUsage

    @property
    def nbytes(self) -> int:
        """The size of all values."""
        return sum(map(len, self.rows))


async def collect_vectors(inflight: InflightRequest, count: int) -> Vectors:
    """Wait for the vectors of `count` texts.

    Raises:
        MlxdError: the request failed, or the client disconnected.
    """
    rows: dict[int, bytes] = {}
    prompt_tokens = 0
    ends: list[Finished] = []
    async with inflight:
        async for batch in inflight.batches():
            prompt_tokens += batch.prompt_tokens
            ends += batch.finished
            for event in batch.events:
                if isinstance(event, Embedded):
                    rows.update(split(event))
    return Vectors([rows[index] for index in range(count)], prompt_tokens, describe_texts(ends))


def describe_texts(ends: Sequence[Finished]) -> TextsUsage:
    """Where the time went."""
    use = describe_use(ends)
    names = TextsUsage.__struct_fields__
    return TextsUsage(**{name: getattr(use, name) for name in names})


def split(event: Embedded) -> dict[int, bytes]:
    """The values of each text, by its index."""
    size = len(event.values) // len(event.indices)
    return {
        index: event.values[position * size : (position + 1) * size]
        for position, index in enumerate(event.indices)
    }


def to_numbers(row: bytes) -> tuple[float, ...]:
    """The values of one text."""
    return struct.unpack(f"<{len(row) // VALUE_BYTES}f", row)


def encode_numbers(row: bytes) -> bytes:
    """The values of one text as JSON: numbers that are the float32 values exactly."""
    return msgspec.json.encode(to_numbers(row))


def encode_base64(row: bytes) -> bytes:
    """The values of one text as JSON: a string of base64."""
    return b'"' + base64.b64encode(row) + b'"'
