"""The load's clients read bodies of any framing, and use a connection as long as it is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.load.transport import HEAD_END, Chunks, Connection
from tests.waiting import HANG_S

pytestmark = pytest.mark.anyio

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhel\r\n\r\n2\r\nlo\r\n0\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
OLD = b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold"
CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end"
CUT = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@given(st.lists(st.binary(min_size=1, max_size=40)), st.lists(st.integers(1, 9), min_size=1))
def test_chunks_are_read_however_they_arrive(contents: list[bytes], sizes: list[int]) -> None:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in contents) + b"0\r\n\r\n"
    chunks, read, start, turn = Chunks(), [], 0, 0
    while start < len(framed):
        assert not chunks.ended
        end = start + sizes[turn % len(sizes)]
        read.append(chunks.feed(framed[start:end]))
        start, turn = end, turn + 1
    assert chunks.ended
    assert b"".join(read) == b"".join(contents)


def test_what_is_no_chunk_is_an_error() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Chunks().feed(b"data: x\r\n\r\n")


class Server:
    """Answers requests in turn, and closes the connection after those answers in `ending`."""

    def __init__(self, answers: Sequence[bytes], ending: Sequence[bytes]) -> None:
        self._answers = iter(answers)
        self._ending = ending
        self.connections: list[asyncio.Task[None] | None] = []
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(asyncio.current_task())
        answer = b""
        while answer not in self._ending:
            try:
                self.heads.append(await reader.readuntil(HEAD_END))
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            answer = next(self._answers)
            writer.write(answer)
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def client_of(server: Server, timeout_s: float = HANG_S) -> AsyncIterator[httpx.AsyncClient]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with (
        listener,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", transport=Connection(timeout_s), trust_env=False
        ) as client,
    ):
        yield client
    await asyncio.gather(*(each for each in server.connections if each), return_exceptions=True)


async def test_a_connection_is_used_until_the_server_closes_it() -> None:
    server = Server([CHUNKED, SIZED, OLD, CLOSED, SIZED], ending=[OLD, CLOSED])
    async with client_of(server) as client:
        texts = [(await client.get("/x?y=z")).text for _ in range(5)]
    assert texts == ["hel\r\nlo", "abc", "old", "to the end", "abc"]
    assert len(server.connections) == 3
    assert all(head.startswith(b"GET /x?y=z HTTP/1.1\r\n") for head in server.heads)


@pytest.mark.parametrize("answer", [CUT, SIZED[:-1], b"HTTP/1.1 200"])
async def test_an_answer_that_is_cut_off_is_an_error(answer: bytes) -> None:
    async with client_of(Server([answer], ending=[answer])) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/")


async def test_a_read_that_waits_for_too_long_is_an_error() -> None:
    async with client_of(Server([b""], ending=[]), timeout_s=0.05) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/")
