"""In which message of a request each token of its prompt is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from protocol.events import Origin
from protocol.messages import ChatPrompt
from protocol.structs import Data
from worker.templates.conversation import split_leading
from worker.templates.message_spans import NO_MESSAGE, Span

# A vocabulary may add a space at the beginning, and special tokens may take those around them.
WHITE_SPACE = b" \t\r\n"

Offsets = np.ndarray[Any, np.dtype[np.int64]]


class MessageMap(Data, frozen=True):
    """For each message its first token, in the order of the prompt, its index and its role.

    The index is that in the request's list; it is -1 where a message is not in that list.
    """

    starts: list[int]
    indexes: list[int]
    roles: list[str]

    def find(self, token: int) -> tuple[int | None, str | None]:
        """The index and the role of the message that a token is in; None where it is in none."""
        place = bisect_right(self.starts, token) - 1
        if place < 0:
            return None, None
        index, role = self.indexes[place], self.roles[place]
        return (None if index == NO_MESSAGE else index), (role or None)


NO_MESSAGES = MessageMap([], [], [])


def map_messages(
    prompt: ChatPrompt,
    spans: Sequence[Span],
    starts: Sequence[int],
    dropped_messages: int = 0,
) -> MessageMap:
    """The map of a prompt whose `spans` begin at the tokens `starts`.

    After the instructions at its beginning `dropped_messages` of the request are left out.
    """
    leading = len(split_leading(prompt.messages)[0])
    indexes, roles = [], []
    for span in spans:
        if span.message == NO_MESSAGE:
            origin = Origin(NO_MESSAGE, "")
        else:
            place = span.message + (dropped_messages if span.message >= leading else 0)
            role = prompt.messages[span.message]["role"]
            origin = prompt.origins[place] if prompt.origins else Origin(place, role)
        indexes.append(origin.index)
        roles.append(origin.role)
    return MessageMap(list(starts), indexes, roles)


def to_tokens(
    text: str, spans: Sequence[Span], tokens: Sequence[int], token_bytes: Callable[[int], bytes]
) -> list[int] | None:
    """The first token of each span of a prompt's text; None if the tokens are not that text."""
    pieces = [token_bytes(token) for token in tokens]
    joined, data = b"".join(pieces), text.encode("utf-8", "surrogatepass")
    drops = b""
    if joined != data:
        drops = WHITE_SPACE
        if joined.translate(None, drops) != data.translate(None, drops):
            return None
        pieces = [piece.translate(None, drops) for piece in pieces]
    ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))
    starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    places = [*offsets_of(text, [span.start for span in spans], drops)]
    return [int(at) for at in np.searchsorted(starts, places, side="left")]


def offsets_of(text: str, places: Sequence[int], drops: bytes) -> list[int]:
    """These ascending places of a text in bytes, without those of `drops`."""
    offsets = []
    offset = last = 0
    for place in places:
        part = text[last:place].encode("utf-8", "surrogatepass")
        offset += len(part.translate(None, drops) if drops else part)
        last = place
        offsets.append(offset)
    return offsets
