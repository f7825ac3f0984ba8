"""The body of a request that an endpoint reads, without a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from service.errors import BodyMemoryFull


class BodyReader:
    """The body of one request, and what is reserved for it."""

    def __init__(self, body: Any) -> None:
        self._body = msgspec.json.encode(body)
        self.reserved: list[int] = []
        self.leave: Callable[[], None] = lambda: None
        self.is_full = False

    @property
    def size(self) -> int:
        return len(self._body)

    async def body(self) -> bytes:
        return self._body

    def check_connected(self) -> None:
        """The client stays."""

    def discard_body(self) -> None:
        """Nothing is kept."""

    async def reserve(self, nbytes: int) -> None:
        self.reserved.append(nbytes)
        if self.is_full:
            raise BodyMemoryFull("no memory")

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        self.leave = callback
