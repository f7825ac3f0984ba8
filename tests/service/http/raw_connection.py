"""An app on a real port, and HTTP/1.1 by hand: what no client library would send, and when."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from starlette.types import ASGIApp

from service.http.listener import ConnectionListener, bind

FLUSH_S = 1.0
# Of the ports a test serves on; one that takes longer to end hangs.
CLOSE_DEADLINE_S = 10.0


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_head(self, path: str, *headers: str, method: str = "POST") -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]
        await self.send("\r\n".join(lines).encode())

    async def read_answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one response with a Content-Length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split(" ")[1]), headers, body

    async def read_end(self) -> bytes:
        """All until the server closes; a reset closes too."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := await self.reader.read(65536):
                data += piece
        return data


class Site:
    """An app that is being served."""

    def __init__(self, connections: ConnectionListener, listener: socket.socket) -> None:
        self.connections = connections
        self.port: int = listener.getsockname()[1]


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    *,
    max_connections: int = 100,
    max_header_bytes: int = 16 * 1024,
    write_stall_s: float = 60.0,
    idle_timeout_s: float = 60.0,
) -> AsyncIterator[Site]:
    """`app` on a free port of the loopback address. No connection may be left at the end."""
    listener = bind("127.0.0.1", 0)
    connections = ConnectionListener(
        app,
        listener,
        max_connections=max_connections,
        max_header_bytes=max_header_bytes,
        write_stall_s=write_stall_s,
        idle_timeout_s=idle_timeout_s,
    )
    connections.listen()
    try:
        yield Site(connections, listener)
    finally:
        async with asyncio.timeout(CLOSE_DEADLINE_S):
            await connections.close(FLUSH_S)
        assert len(connections) == 0


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """A connection to a port of this machine, closed at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    except BaseException:
        # What is still to be sent to a server that does not read would keep a close waiting.
        writer.transport.abort()
        raise
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
