"""From a sequence's events to the frames of its stream.

Most frames of a stream differ in their text alone: what stands before and after
it is encoded once a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from protocol.messages import Event, TextDelta
from service.api.event_stream import frame

# Encoded, it is found again: no other value of a frame is this one text.
MARK = "\x00"

ChoiceT = TypeVar("ChoiceT")


class StreamEncoder(Generic[ChoiceT]):
    """The frames of one stream. `to_choice` and `to_chunk` are its dialect's."""

    def __init__(
        self,
        to_choice: Callable[[int, Event], ChoiceT | None],
        to_chunk: Callable[[list[ChoiceT]], msgspec.Struct],
    ) -> None:
        self._to_choice = to_choice
        self._to_chunk = to_chunk
        self._encoder = msgspec.json.Encoder()
        self._around_text: dict[int, tuple[bytes, bytes]] = {}

    def encode(self, index: int, event: Event) -> bytes:
        """The event as a client sees it; no bytes where it sees nothing."""
        if isinstance(event, TextDelta) and is_plain(event):
            return self._frame_text(index, event.text) if event.text else b""
        choice = self._to_choice(index, event)
        return b"" if choice is None else self._encode([choice])

    def _frame_text(self, index: int, text: str) -> bytes:
        around = self._around_text.get(index)
        if around is None:
            around = self._around_text[index] = self._split(index)
        return around[0] + self._encoder.encode(text) + around[1]

    def _split(self, index: int) -> tuple[bytes, bytes]:
        choice = self._to_choice(index, TextDelta(0, MARK, []))
        assert choice is not None
        before, _, after = self._encode([choice]).partition(self._encoder.encode(MARK))
        return before, after

    def _encode(self, choices: list[ChoiceT]) -> bytes:
        return frame(self._encoder.encode(self._to_chunk(choices)))


def is_plain(delta: TextDelta) -> bool:
    """Whether its text is all that it says to a client."""
    return delta == TextDelta(delta.id, delta.text, delta.tokens, settled=delta.settled)
