"""Encodes a sequence's events as the frames of its stream.

Most frames of a stream differ only in their text, so the JSON before and after the text is
encoded once per sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from protocol.events import Event, TextDelta
from service.api.event_stream import frame

# Placeholder for the text: encoded, it occurs nowhere else in a frame.
PLACEHOLDER = "\x00"

ChoiceT = TypeVar("ChoiceT")


class StreamEncoder(Generic[ChoiceT]):
    """The frames of one stream. `to_choice` and `to_chunk` are those of its `ApiFormat`.

    `frames_are_alike`: the frames of one sequence's text differ only in the text.
    """

    def __init__(
        self,
        to_choice: Callable[[int, Event], ChoiceT | None],
        to_chunk: Callable[[list[ChoiceT]], msgspec.Struct],
        *,
        frames_are_alike: bool = True,
    ) -> None:
        self._to_choice = to_choice
        self._to_chunk = to_chunk
        self._frames_are_alike = frames_are_alike
        self._encoder = msgspec.json.Encoder()
        # For each sequence: the bytes of a frame before and after its text.
        self._prefix_suffix: dict[int, tuple[bytes, bytes]] = {}

    def encode(self, index: int, event: Event) -> bytes:
        """The event's frame; no bytes where the client gets nothing."""
        if self._frames_are_alike and isinstance(event, TextDelta) and is_plain(event):
            return self._encode_text(index, event.text) if event.text else b""
        choice = self._to_choice(index, event)
        return b"" if choice is None else self._encode([choice])

    def _encode_text(self, index: int, text: str) -> bytes:
        parts = self._prefix_suffix.get(index)
        if parts is None:
            parts = self._prefix_suffix[index] = self._split(index)
        return parts[0] + self._encoder.encode(text) + parts[1]

    def _split(self, index: int) -> tuple[bytes, bytes]:
        choice = self._to_choice(index, TextDelta(id=0, text=PLACEHOLDER, tokens=[]))
        assert choice is not None
        encoded_placeholder = self._encoder.encode(PLACEHOLDER)
        prefix, _, suffix = self._encode([choice]).partition(encoded_placeholder)
        return prefix, suffix

    def _encode(self, choices: list[ChoiceT]) -> bytes:
        return frame(self._encoder.encode(self._to_chunk(choices)))


def is_plain(delta: TextDelta) -> bool:
    """Whether the client gets nothing of this event but its text, as content."""
    return delta == TextDelta(delta.id, delta.text, delta.tokens, settled=delta.settled)
