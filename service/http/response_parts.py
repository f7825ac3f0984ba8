"""The parts of a streamed response's body, sent to the client directly.

No middleware changes a part of a body. To pass each token through `send` of all of them, and
through the server's checks of any message, took a quarter of the service's time for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.types import Scope, Send

SendPart = Callable[[bytes], Awaitable[None]]

# The key in `scope["state"]` of the server's own function for a part of a body that has begun.
SEND_PART = "send_part"
# And of its `PartWriter`.
PART_WRITER = "part_writer"


class PartWriter(Protocol):
    """Writes parts of a body that has begun, without a wait."""

    @property
    def is_ready(self) -> bool:
        """Whether a part can be written now: the client reads, and the body may have parts."""

    def write(self, part: bytes) -> None:
        """Write a part, which is not empty."""


def part_sender(scope: Scope, send: Send) -> SendPart:
    """The function that sends a part of the body, once the response has started.

    The last part is for `send_last`.
    """

    async def send_part(part: bytes) -> None:
        await send({"type": "http.response.body", "body": part, "more_body": True})

    own: SendPart | None = scope.get("state", {}).get(SEND_PART)
    # The server drops the body of an answer to HEAD on the long way.
    return send_part if own is None or scope["method"] == "HEAD" else own


def part_writer(scope: Scope) -> PartWriter | None:
    """What writes parts of the body at once; None if the server has nothing for it."""
    own: PartWriter | None = scope.get("state", {}).get(PART_WRITER)
    return None if scope["method"] == "HEAD" else own


async def send_last(send: Send, part: bytes) -> None:
    """Send the last part of the body, which may be empty."""
    await send({"type": "http.response.body", "body": part, "more_body": False})
