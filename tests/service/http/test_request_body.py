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
from starlette.types import Receive, Scope, Send

from protocol.units import MIB
from service.config.settings import Settings
from service.errors import BodyTooLarge, InvalidRequest
from service.http.body_budget import SMALL_BODY_BYTES, BodyBudget
from service.http.error_middleware import EXCEPTION_HANDLERS, ErrorMiddleware
from service.http.request_body import RequestReader, RequestReaderMiddleware
from tests.service.http.driven_request import drive, find_client, queue
from tests.service.transport.raw_connection import Client, connected, serving
from tests.waiting import HANG_S

pytestmark = pytest.mark.anyio

LIMIT = 4096
LARGE = 4 * SMALL_BODY_BYTES
SETTINGS = Settings(max_body_bytes=LIMIT)
CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
# One read of these makes more messages than Hypercorn's queue holds.
SMALL_CHUNKS = b"1\r\nx\r\n" * 10_000


class Endpoints:
    """The endpoints under test, and the events that they set."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.disconnected = asyncio.Event()

    async def echo(self, request: Request) -> Response:
        body: bytes = await request.state.request_reader.body()
        return Response(bytes(body))

    async def starlette_echo(self, request: Request) -> Response:
        return Response(await request.body())

    async def ignore(self, request: Request) -> Response:
        return PlainTextResponse("not read")

    async def refuse(self, request: Request) -> Response:
        raise InvalidRequest("refused")

    async def wait(self, request: Request) -> Response:
        request_reader: RequestReader = request.state.request_reader
        request_reader.on_disconnect(self.disconnected.set)
        self.waiting.set()
        await self.disconnected.wait()
        assert request_reader.disconnected
        late: list[bool] = []
        request_reader.on_disconnect(lambda: late.append(True))
        assert late == [True]
        return PlainTextResponse("too late")

    async def stream(self, request: Request) -> Response:
        """A stream of Starlette, which awaits `receive` to notice a disconnect."""

        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.Event().wait()
            finally:
                self.disconnected.set()

        return StreamingResponse(chunks())

    async def break_off(self, request: Request) -> Response:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise RuntimeError("broken")

        return app  # type: ignore[return-value]


@contextlib.asynccontextmanager
async def served(settings: Settings = SETTINGS) -> AsyncIterator[tuple[Endpoints, int]]:
    """Serve the endpoints; they and their port. At the end no read loop may be left."""
    endpoints = Endpoints()
    paths: dict[str, Callable[[Request], Any]] = {
        "/echo": endpoints.echo,
        "/starlette": endpoints.starlette_echo,
        "/ignore": endpoints.ignore,
        "/refuse": endpoints.refuse,
        "/wait": endpoints.wait,
        "/stream": endpoints.stream,
        "/break": endpoints.break_off,
    }
    app = Starlette(
        routes=[Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in paths.items()],
        middleware=[
            Middleware(
                RequestReaderMiddleware,
                settings,
                BodyBudget(settings.body_memory_bytes),
                find_client,
            ),
            Middleware(ErrorMiddleware),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    async with asyncio.timeout(HANG_S), serving(app) as server:
        yield endpoints, server.port
        await read_loops_ended()


async def read_loops_ended() -> None:
    """Wait until every read loop has ended; the test's deadline limits the wait."""
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == "request-reader"]
    if tasks:
        await asyncio.wait(tasks)


@pytest.mark.parametrize("path", ["/echo", "/starlette"])
async def test_the_whole_body_is_read(path: str) -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_headers(path, "Content-Length: 10")
        await client.send(b"hello")
        await client.send(b"world")
        status, headers, body = await client.read_response()
        assert (status, body) == (200, b"helloworld")
        assert "connection" not in headers


async def test_a_body_of_exactly_the_limit_is_accepted_and_one_byte_more_is_refused() -> None:
    async with served() as (_, port):
        for size, status in ((LIMIT, 200), (LIMIT + 1, 413)):
            async with connected(port) as client:
                await client.send_headers("/echo", "Transfer-Encoding: chunked")
                await client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size))
                assert (await client.read_response())[0] == status


async def test_a_connection_serves_request_after_request() -> None:
    async with served() as (_, port), connected(port) as client:
        for _ in range(3):
            await client.send_headers("/ignore", method="GET")
            assert (await client.read_response())[2] == b"not read"
            await client.send_headers("/echo", "Content-Length: 5")
            await client.send(b"hello")
            assert (await client.read_response())[2] == b"hello"


async def test_a_small_unread_body_does_not_close_the_connection() -> None:
    async with served() as (_, port), connected(port) as client:
        for _ in range(3):
            request = b"POST /refuse HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello"
            await client.send(request)
            status, headers, _ = await client.read_response()
            assert status == 400
            assert "connection" not in headers


@pytest.mark.parametrize("length", ["10000000000", str(LIMIT + 1), "9" * 20])
async def test_a_declared_length_beyond_the_limit_is_refused_before_any_body(length: str) -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_headers("/echo", f"Content-Length: {length}")
        status, headers, body = await client.read_response()
        assert status == 413
        assert b'"code":"body_too_large"' in body
        assert headers["connection"] == "close"
        assert await client.read_end() == b""


@pytest.mark.parametrize("length", ["1e20", "-1", "9" * 30, "0x10"])
async def test_an_invalid_length_is_a_400(length: str) -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_headers("/echo", f"Content-Length: {length}")
        assert (await client.read_response())[0] == 400


async def test_an_endless_body_is_refused_and_its_connection_closed() -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_headers("/echo", "Transfer-Encoding: chunked")
        sending = asyncio.create_task(send_until_closed(client))
        status, headers, _ = await client.read_response()
        assert status == 413
        assert headers["connection"] == "close"
        await client.read_end()
        await sending


async def test_an_endless_body_uses_no_more_memory_than_the_limit() -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_headers("/echo", "Transfer-Encoding: chunked")
        tracemalloc.start()
        try:
            sending = asyncio.create_task(send_until_closed(client))
            await client.read_end()
            sent_bytes = await sending
            assert sent_bytes > 4 * MIB
            assert tracemalloc.get_traced_memory()[1] < 4 * MIB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("chunks", [CHUNK, SMALL_CHUNKS], ids=["large", "small"])
@pytest.mark.parametrize("path", ["/ignore", "/refuse"])
async def test_a_response_to_an_unread_body_is_delivered_and_the_connection_closed(
    path: str, chunks: bytes
) -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_headers(path, "Transfer-Encoding: chunked")
        sending = asyncio.create_task(send_until_closed(client, chunks))
        status, headers, body = await client.read_response()
        assert status in (200, 400)
        assert body != b""
        assert headers["connection"] == "close"
        await client.read_end()
        await sending


@pytest.mark.parametrize("chunks", [CHUNK, SMALL_CHUNKS], ids=["large", "small"])
async def test_a_response_that_breaks_off_before_the_body_is_read_closes_the_connection(
    chunks: bytes,
) -> None:
    async with served() as (_, port), connected(port) as client:
        await client.send_headers("/break", "Transfer-Encoding: chunked")
        sending = asyncio.create_task(send_until_closed(client, chunks))
        answer = await client.read_end()
        assert b"half" in answer
        assert not answer.endswith(b"0\r\n\r\n")
        await sending


async def test_a_body_that_stalls_is_a_408() -> None:
    async with served(Settings(body_timeout_s=0.3)) as (_, port), connected(port) as client:
        await client.send_headers("/echo", "Content-Length: 10")
        await client.send(b"hel")
        status, headers, body = await client.read_response()
        assert status == 408
        assert b'"code":"body_timeout"' in body
        assert headers["connection"] == "close"
        assert await client.read_end() == b""


async def test_a_disconnect_is_noticed_while_the_response_is_prepared() -> None:
    async with served() as (endpoints, port):
        async with connected(port) as client:
            await client.send_headers("/wait", "Content-Length: 0")
            await endpoints.waiting.wait()
        assert await endpoints.disconnected.wait()


async def test_a_disconnect_during_the_body_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(Settings(max_body_bytes=LIMIT)) as (_, port):
        async with connected(port) as client:
            await client.send_headers("/echo", "Content-Length: 10")
            await client.send(b"hel")
        await read_loops_ended()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_stream_of_starlette_notices_a_disconnect() -> None:
    async with served() as (endpoints, port):
        async with connected(port) as client:
            await client.send_headers("/stream", method="GET")
            await client.reader.readuntil(b"first")
        assert await endpoints.disconnected.wait()


async def test_after_the_response_the_end_is_not_a_disconnect() -> None:
    calls: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["request_reader"].on_disconnect(lambda: calls.append(True))
        await PlainTextResponse("done")(scope, receive, send)
        # Hypercorn sends this message at the end of every request.
        incoming.put_nowait({"type": "http.disconnect"})
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        assert not scope["state"]["request_reader"].disconnected

    incoming = queue({"type": "http.request"})
    await drive(app, incoming)
    assert calls == []


async def test_a_callback_that_fails_does_not_stop_the_others(
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
    await drive(refused, queue({"type": "http.request", "body": b"x" * (LIMIT + 1)}), SETTINGS)


async def test_a_stalled_sender_makes_room_for_a_body_and_gets_a_503() -> None:
    tight = Settings(max_body_bytes=MIB, body_memory_bytes=MIB)
    async with served(tight) as (_, port), connected(port) as stalled, connected(port) as client:
        await stalled.send_headers("/echo", f"Content-Length: {MIB}")
        await stalled.send(b"x" * LARGE)
        await client.send_headers("/echo", f"Content-Length: {MIB}")
        sending = asyncio.create_task(client.send(b"y" * MIB))
        status, headers, body = await stalled.read_response()
        assert (status, headers["connection"]) == (503, "close")
        assert int(headers["retry-after"]) > 0
        assert b'"code":"body_memory_full"' in body
        assert await stalled.read_end() == b""
        await sending
        assert (await client.read_response())[2] == b"y" * MIB


async def test_the_read_loop_ends_with_its_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert len(asyncio.all_tasks()) == before + 1
        await PlainTextResponse("done")(scope, receive, send)

    before = len(asyncio.all_tasks())
    await drive(app, queue({"type": "http.request"}))
    assert len(asyncio.all_tasks()) == before


async def send_until_closed(client: Client, chunks: bytes = CHUNK) -> int:
    """Send chunks until the connection is closed; the number of bytes sent."""
    sent_bytes = 0
    with contextlib.suppress(ConnectionError):
        while not client.writer.is_closing():
            await client.send(chunks)
            sent_bytes += len(chunks)
            await asyncio.sleep(0)
    return sent_bytes
