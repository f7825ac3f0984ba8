"""A server that reads and forgets: what the hostile clients alone take of the machine.

`python -m tests.load.attack.sink` prints its port and runs until it is ended. It answers a request
with 400 once its declared body has arrived.
"""

from __future__ import annotations

import asyncio
import re

from tests.load.attack.wire import say

HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
READ_BYTES = 256 * 1024
ANSWER = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Sink(asyncio.BufferedProtocol):
    """One connection; all of them share one buffer, whose content is looked at only for a head."""

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._transport: asyncio.WriteTransport | None = None
        self._head = b""
        self._missing_bytes: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._missing_bytes is not None:
            self._missing_bytes -= nbytes
        else:
            self._head += self._buffer[:nbytes]
            head, end, body = self._head.partition(HEAD_END)
            if not end:
                return
            declared = LENGTH.search(head)
            self._missing_bytes = (int(declared[1]) if declared else 0) - len(body)
            self._head = b""
        if self._missing_bytes <= 0 and self._transport is not None:
            self._transport.write(ANSWER)
            self._transport.close()


async def serve() -> None:
    """Serve until the task is cancelled."""
    buffer = bytearray(READ_BYTES)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sink(buffer), "127.0.0.1", 0, backlog=1024)
    say(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
