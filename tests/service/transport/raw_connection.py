"""An app on a real port, and a raw HTTP/1.1 client for input that client libraries never send."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from starlette.types import ASGIApp

from service.transport.clients import Peer
from service.transport.listener import ConnectionListener, bind
from tests.waiting import HANG_S

FLUSH_S = 1.0


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_headers(self, path: str, *headers: str, method: str = "POST") -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]
        await self.send("\r\n".join(lines).encode())

    async def read_response(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one response with a Content-Length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split(" ")[1]), headers, body

    async def read_end(self) -> bytes:
        """All bytes until the server closes the connection, or resets it."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while chunk := await self.reader.read(65536):
                data += chunk
        return data


class ServedApp:
    """An app that is served on `port`."""

    def __init__(self, connections: ConnectionListener, listener: socket.socket) -> None:
        self.connections = connections
        self.port: int = listener.getsockname()[1]


class NamedClients:
    """Names clients by their ports, as the test says; the others are one client."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        # Names are known once they were looked up.
        self.found: set[int] = set()

    def name_now(self, peer: Peer) -> str:
        return self.names.get(peer.port, "one") if peer.port in self.found else str(peer.port)

    async def find_name(self, peer: Peer) -> str:
        await asyncio.sleep(0)
        self.found |= {peer.port, *self.names}
        return self.name_now(peer)


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    *,
    max_connections: int = 100,
    max_header_bytes: int = 16 * 1024,
    write_stall_s: float = 60.0,
    idle_timeout_s: float = 60.0,
    names: dict[int, str] | None = None,
) -> AsyncIterator[ServedApp]:
    """Serve `app` on a free loopback port. At the end no connection may be left."""
    listener = bind("127.0.0.1", 0)
    connections = ConnectionListener(
        app,
        listener,
        max_connections=max_connections,
        max_header_bytes=max_header_bytes,
        write_stall_s=write_stall_s,
        clients=NamedClients({} if names is None else names),
        idle_timeout_s=idle_timeout_s,
    )
    connections.listen()
    try:
        yield ServedApp(connections, listener)
    finally:
        async with asyncio.timeout(HANG_S):
            await connections.close(FLUSH_S)
        assert len(connections) == 0


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """A connection to a loopback port, closed at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    except BaseException:
        # A close would wait for unsent data if the server does not read.
        writer.transport.abort()
        raise
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
