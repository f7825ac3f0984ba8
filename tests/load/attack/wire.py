"""HTTP/1.1 as a hostile client writes it: raw bytes, and an outcome for each request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

CHAT = "/v1/chat/completions"
PIECE_BYTES = 2**20
STATUS_WORDS = 2
# Said of each request before what becomes of it.
SENT = "sent"
# Said once by a client that can begin.
READY = "ready"


@dataclass(frozen=True)
class Target:
    """The service, and the context length of its model in tokens."""

    host: str
    port: int
    context: int


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def say(outcome: str) -> None:
    """Print one outcome."""
    print(outcome, flush=True)


def head(target: Target, length: int | None, *, path: str = CHAT) -> bytes:
    """The head of a POST request whose body has `length` bytes, or is chunked."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {target.host}:{target.port}",
        "Content-Type: application/json",
        "Connection: close",
        framing,
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


@contextlib.asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Streams]:
    """A connection; aborted at the end, so that nothing waits for the peer."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send all of it; a peer that closes early is no error, its response tells."""
    with contextlib.suppress(OSError):
        for start in range(0, len(data), PIECE_BYTES):
            writer.write(data[start : start + PIECE_BYTES])
            await writer.drain()


async def read_outcome(reader: asyncio.StreamReader) -> str:
    """Read a response to its end; its status, or how the connection ended without one."""
    status = ""
    try:
        words = (await reader.readline()).split()
        status = words[1].decode("ascii", "replace") if len(words) >= STATUS_WORDS else ""
        while await reader.read(PIECE_BYTES):
            pass
    except (OSError, ValueError) as error:
        return status or type(error).__name__
    return status or "closed"


async def exchange(target: Target, body: bytes, *, path: str = CHAT) -> str:
    """Send one request and read its response; the outcome."""
    say(SENT)
    try:
        async with connected(target) as (reader, writer):
            await send(writer, head(target, len(body), path=path) + body)
            return await read_outcome(reader)
    except OSError as error:
        return type(error).__name__
