from __future__ import annotations

import asyncio
import contextlib
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.config.settings import Settings
from service.errors import BodyTooLarge, InvalidRequest
from service.http.error_middleware import EXCEPTION_HANDLERS, ErrorMiddleware
from service.http.request_body import RequestReader, RequestReaderMiddleware
from tests.service.http.raw_connection import Client, connected, serving

pytestmark = pytest.mark.anyio

LIMIT = 4096
DEADLINE_S = 20.0
SETTINGS = Settings(max_body_bytes=LIMIT, body_timeout_s=0.3)
CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
# One read of these is more messages than Hypercorn's queue holds.
CRUMBS = b"1\r\nx\r\n" * 10_000


class Desk:
    """The endpoints under test, and what happened at them."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.left = asyncio.Event()

    async def echo(self, request: Request) -> Response:
        body: bytes = await request.state.request_reader.body()
        return Response(body)

    async def starlette_echo(self, request: Request) -> Response:
        return Response(await request.body())

    async def ignore(self, request: Request) -> Response:
        return PlainTextResponse("I read nothing")

    async def refuse(self, request: Request) -> Response:
        raise InvalidRequest("not like this")

    async def wait(self, request: Request) -> Response:
        request_reader: RequestReader = request.state.request_reader
        request_reader.on_disconnect(self.left.set)
        self.waiting.set()
        await self.left.wait()
        assert request_reader.disconnected
        late: list[bool] = []
        request_reader.on_disconnect(lambda: late.append(True))
        assert late == [True]
        return PlainTextResponse("to nobody")

    async def stream(self, request: Request) -> Response:
        """Starlette's own streaming reads `receive` for the disconnect."""

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.Event().wait()
            finally:
                self.left.set()

        return StreamingResponse(pieces())

    async def break_off(self, request: Request) -> Response:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise RuntimeError("in the middle")

        return app  # type: ignore[return-value]


@contextlib.asynccontextmanager
async def served(settings: Settings = SETTINGS) -> AsyncIterator[tuple[Desk, int]]:
    """The desk on a real port; the port. At the end no exchange may be left."""
    desk = Desk()
    paths: dict[str, Callable[[Request], Any]] = {
        "/echo": desk.echo,
        "/starlette": desk.starlette_echo,
        "/ignore": desk.ignore,
        "/refuse": desk.refuse,
        "/wait": desk.wait,
        "/stream": desk.stream,
        "/break": desk.break_off,
    }
    app = Starlette(
        routes=[Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in paths.items()],
        middleware=[Middleware(RequestReaderMiddleware, settings), Middleware(ErrorMiddleware)],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    async with asyncio.timeout(DEADLINE_S), serving(app) as site:
        yield desk, site.port
        await no_exchange_left()


async def no_exchange_left() -> None:
    """Wait until every request's task has ended; the test's deadline bounds it."""
    pumps = [task for task in asyncio.all_tasks() if task.get_name() == "request-reader"]
    if pumps:
        await asyncio.wait(pumps)


@pytest.mark.parametrize("path", ["/echo", "/starlette"])
async def test_a_body_is_read_whole(path: str) -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_head(path, "Content-Length: 10")
        await client.send(b"hello")
        await client.send(b"world")
        status, headers, body = await client.read_answer()
        assert (status, body) == (200, b"helloworld")
        assert "connection" not in headers


async def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    async with served() as (_, port):
        for size, status in ((LIMIT, 200), (LIMIT + 1, 413)):
            async with connected(port) as client:
                await client.send_head("/echo", "Transfer-Encoding: chunked")
                await client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size))
                assert (await client.read_answer())[0] == status


async def test_a_connection_serves_request_after_request() -> None:
    async with served() as (_, port), connected(port) as client:
        for _ in range(3):
            await client.send_head("/ignore", method="GET")
            assert (await client.read_answer())[2] == b"I read nothing"
            await client.send_head("/echo", "Content-Length: 5")
            await client.send(b"hello")
            assert (await client.read_answer())[2] == b"hello"


async def test_a_small_body_that_nobody_reads_does_not_close_the_connection() -> None:
    async with served() as (_, port), connected(port) as client:
        for _ in range(3):
            request = b"POST /refuse HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello"
            await client.send(request)
            status, headers, _ = await client.read_answer()
            assert status == 400
            assert "connection" not in headers


@pytest.mark.parametrize("length", ["10000000000", str(LIMIT + 1), "9" * 20])
async def test_a_declared_length_beyond_the_limit_is_refused_before_any_body(length: str) -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_head("/echo", f"Content-Length: {length}")
        status, headers, body = await client.read_answer()
        assert status == 413
        assert b'"code":"body_too_large"' in body
        assert headers["connection"] == "close"
        assert await client.read_end() == b""


@pytest.mark.parametrize("length", ["1e20", "-1", "9" * 30, "0x10"])
async def test_a_length_that_is_none_is_a_400(length: str) -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_head("/echo", f"Content-Length: {length}")
        assert (await client.read_answer())[0] == 400


async def test_an_endless_body_is_refused_and_its_connection_closed() -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_head("/echo", "Transfer-Encoding: chunked")
        flood = asyncio.create_task(send_for_ever(client))
        status, headers, _ = await client.read_answer()
        assert status == 413
        assert headers["connection"] == "close"
        await client.read_end()
        await flood


async def test_an_endless_body_takes_no_more_memory_than_the_limit() -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_head("/echo", "Transfer-Encoding: chunked")
        tracemalloc.start()
        try:
            flood = asyncio.create_task(send_for_ever(client))
            await client.read_end()
            sent_bytes = await flood
            assert sent_bytes > 4 * 2**20
            assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("chunks", [CHUNK, CRUMBS], ids=["chunks", "crumbs"])
@pytest.mark.parametrize("path", ["/ignore", "/refuse"])
async def test_an_answer_over_an_unread_body_reaches_its_sender_and_closes(
    path: str, chunks: bytes
) -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_head(path, "Transfer-Encoding: chunked")
        flood = asyncio.create_task(send_for_ever(client, chunks))
        status, headers, body = await client.read_answer()
        assert status in (200, 400)
        assert body != b""
        assert headers["connection"] == "close"
        await client.read_end()
        await flood


@pytest.mark.parametrize("chunks", [CHUNK, CRUMBS], ids=["chunks", "crumbs"])
async def test_a_response_that_breaks_off_over_an_unread_body_closes(chunks: bytes) -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_head("/break", "Transfer-Encoding: chunked")
        flood = asyncio.create_task(send_for_ever(client, chunks))
        answer = await client.read_end()
        assert b"half" in answer
        assert not answer.endswith(b"0\r\n\r\n")
        await flood


async def test_a_body_that_stalls_is_a_408() -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_head("/echo", "Content-Length: 10")
        await client.send(b"hel")
        status, headers, body = await client.read_answer()
        assert status == 408
        assert b'"code":"body_timeout"' in body
        assert headers["connection"] == "close"
        assert await client.read_end() == b""


async def test_a_client_that_leaves_is_noticed_while_its_answer_is_made() -> None:
    async with served() as (desk, port):
        async with connected(port) as client:
            await client.send_head("/wait", "Content-Length: 0")
            await desk.waiting.wait()
        await desk.left.wait()


async def test_a_client_that_leaves_amid_its_body_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(Settings(max_body_bytes=LIMIT)) as (_, port):
        async with connected(port) as client:
            await client.send_head("/echo", "Content-Length: 10")
            await client.send(b"hel")
        await no_exchange_left()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_starlette_s_own_stream_notices_that_its_client_left() -> None:
    async with served() as (desk, port):
        async with connected(port) as client:
            await client.send_head("/stream", method="GET")
            await client.reader.readuntil(b"first")
        await desk.left.wait()


async def test_an_answered_client_did_not_leave() -> None:
    left: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["request_reader"].on_disconnect(lambda: left.append(True))
        await PlainTextResponse("done")(scope, receive, send)
        # As Hypercorn does it: the end of the stream, which it calls a disconnect too.
        incoming.put_nowait({"type": "http.disconnect"})
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        assert not scope["state"]["request_reader"].disconnected

    incoming = queue({"type": "http.request"})
    await drive(app, incoming)
    assert left == []


async def test_a_callback_that_fails_does_not_keep_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["request_reader"].on_disconnect(lambda: 1 / 0)
        scope["state"]["request_reader"].on_disconnect(called.set)
        await called.wait()

    await drive(app, queue({"type": "http.request"}, {"type": "http.disconnect"}))
    assert "ZeroDivisionError" in caplog.text


async def test_the_body_can_be_read_twice_and_is_refused_twice() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await scope["state"]["request_reader"].body() == b"hello"
        assert await scope["state"]["request_reader"].body() == b"hello"

    async def refused(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            with pytest.raises(BodyTooLarge):
                await scope["state"]["request_reader"].body()

    await drive(app, queue({"type": "http.request", "body": b"hello"}))
    await drive(refused, queue({"type": "http.request", "body": b"x" * (LIMIT + 1)}))


async def test_the_pump_ends_with_its_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert len(asyncio.all_tasks()) == before + 1
        await PlainTextResponse("done")(scope, receive, send)

    before = len(asyncio.all_tasks())
    await drive(app, queue({"type": "http.request"}))
    assert len(asyncio.all_tasks()) == before


async def send_for_ever(client: Client, chunks: bytes = CHUNK) -> int:
    """Send chunks until the connection is closed; how many bytes."""
    sent_bytes = 0
    with contextlib.suppress(ConnectionError):
        while not client.writer.is_closing():
            await client.send(chunks)
            sent_bytes += len(chunks)
            await asyncio.sleep(0)
    return sent_bytes


def queue(*messages: Message) -> asyncio.Queue[Message]:
    """What a server would say; after that it says nothing more."""
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    for message in messages:
        incoming.put_nowait(message)
    return incoming


async def drive(app: ASGIApp, incoming: asyncio.Queue[Message]) -> None:
    """Run `app` behind the middleware for one chunked request."""

    async def send(message: Message) -> None:
        await asyncio.sleep(0)

    scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
    await RequestReaderMiddleware(app, SETTINGS)(scope, incoming.get, send)
