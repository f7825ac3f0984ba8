"""Connections on a real port, on both event loops: bounded, watched, and gone in the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tests.service.http.raw_connection import Site, connected, serving

pytestmark = pytest.mark.anyio

DEADLINE_S = 20.0
POLL_S = 0.01
PIECE = b"x" * 65536
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
STREAM = b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The loops that the service runs on."""
    return "asyncio", {"use_uvloop": request.param}


class Desk:
    """An app: `/stream` never ends, `/wait` answers when told, others at once."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()
        self.streamed_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        match scope["path"]:
            case "/stream":
                await self._until_left(receive, self._stream(send))
            case "/wait":
                await self._until_left(receive, self._wait(send))
            case path:
                answer = PlainTextResponse(path, headers={"version": scope["http_version"]})
                await answer(scope, receive, send)

    async def _until_left(self, receive: Receive, answering: Any) -> None:
        answer = asyncio.create_task(answering)
        self.entered.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        answer.cancel()
        await asyncio.wait([answer])
        self.left.set()

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            self.streamed_bytes += len(PIECE)
            await asyncio.sleep(0)

    async def _wait(self, send: Send) -> None:
        await self.go_on.wait()
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"done"})


@contextlib.asynccontextmanager
async def served(**limits: Any) -> AsyncIterator[tuple[Desk, Site]]:
    """The desk on a port. At the end no task, connection or descriptor of it may be left."""
    desk = Desk()
    tasks, sockets = len(asyncio.all_tasks()), open_sockets()
    async with asyncio.timeout(DEADLINE_S):
        async with serving(desk, **limits) as site:
            yield desk, site
        await until(lambda: len(asyncio.all_tasks()) <= tasks and open_sockets() <= sockets)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """No client can make Hypercorn or asyncio write a traceback."""
    caplog.set_level(logging.INFO)
    yield caplog
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def open_sockets() -> int:
    """How many this process has; libuv opens a descriptor of another kind when it likes."""
    return sum(path.is_socket() for path in Path("/dev/fd").iterdir())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it; the test's deadline bounds it."""
    while not condition():  # noqa: ASYNC110 (what is counted here sets no event)
        await asyncio.sleep(POLL_S)


async def until_gone(site: Site) -> None:
    """Wait until no connection is left."""
    await until(lambda: len(site.connections) == 0)


# ---------------------------------------------------------------- clients that take nothing


@contextlib.asynccontextmanager
async def deaf(port: int, request: bytes) -> AsyncIterator[socket.socket]:
    """A client that sends and never reads, with room for little."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        await asyncio.get_running_loop().sock_sendall(client, request)
        yield client


async def test_a_client_that_reads_nothing_is_cut_off(quiet: pytest.LogCaptureFixture) -> None:
    async with served(write_stall_s=0.2) as (desk, site), deaf(site.port, STREAM):
        await desk.left.wait()
        await until_gone(site)
        assert desk.streamed_bytes < 8 * 2**20
    assert "cutting off clients that do not read" in quiet.text


async def test_a_client_is_cut_off_that_does_not_take_the_rest_of_a_finished_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = PIECE * 64
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        sent.set()

    sent = asyncio.Event()
    async with (
        asyncio.timeout(DEADLINE_S),
        serving(app, write_stall_s=0.2) as site,
        deaf(site.port, GET),
    ):
        await sent.wait()
        await until_gone(site)


async def test_a_client_that_reads_slowly_is_not_cut_off() -> None:
    async with served(write_stall_s=1.0) as (desk, site), connected(site.port) as client:
        await client.send(STREAM)
        for _ in range(60):
            await client.reader.readexactly(len(PIECE))
            await asyncio.sleep(0.03)
        assert not desk.left.is_set()


async def test_others_are_served_while_one_does_not_read() -> None:
    async with served() as (desk, site), deaf(site.port, STREAM):
        await desk.entered.wait()
        async with connected(site.port) as client:
            for _ in range(20):
                await client.send(GET)
                assert (await client.read_answer())[0] == 200


# ---------------------------------------------------------------- clients that leave


@pytest.mark.parametrize("request_", [STREAM, WAIT, STREAM + GET * 3, WAIT + GET * 3])
async def test_a_client_that_leaves_is_noticed_even_with_requests_in_line(request_: bytes) -> None:
    async with served() as (desk, site):
        async with connected(site.port) as client:
            await client.send(request_)
            await desk.entered.wait()
            client.writer.transport.abort()
        await desk.left.wait()
        await until_gone(site)


@pytest.mark.parametrize("request_", [WAIT, WAIT + GET])
async def test_a_client_that_closes_its_sending_half_has_left(request_: bytes) -> None:
    async with served() as (desk, site), connected(site.port) as client:
        await client.send(request_)
        await desk.entered.wait()
        client.writer.write_eof()
        await desk.left.wait()
        assert await client.read_end() == b""
        await until_gone(site)


async def test_a_client_that_leaves_an_idle_connection_leaves_nothing() -> None:
    async with served() as (_, site):
        async with connected(site.port) as client:
            await client.send(GET)
            await client.read_answer()
        await until_gone(site)


# ---------------------------------------------------------------- clients that wait


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: te", GET])
async def test_a_connection_without_a_whole_request_ends_after_the_idle_time(sent: bytes) -> None:
    async with served(idle_timeout_s=0.2) as (_, site), connected(site.port) as client:
        await client.send(sent)
        answer = await client.read_end()
        assert (b"200" in answer) is (sent == GET)
        await until_gone(site)


async def test_headers_that_drip_do_not_keep_a_connection() -> None:
    async with served(idle_timeout_s=0.2) as (_, site), connected(site.port) as client:
        await client.send(GET[:-2])
        end = asyncio.create_task(client.read_end())
        with contextlib.suppress(ConnectionError):
            while not end.done():
                await client.send(b"a: b\r\n")
                await asyncio.sleep(POLL_S)
        assert await end == b""


async def test_a_request_in_progress_outlasts_the_idle_time() -> None:
    async with served(idle_timeout_s=0.1) as (desk, site), connected(site.port) as client:
        await client.send(WAIT)
        async with connected(site.port) as idle:
            await idle.read_end()
        desk.go_on.set()
        assert (await client.read_answer())[2] == b"done"


# ---------------------------------------------------------------- too many clients


async def test_past_the_limit_the_longest_idle_connection_makes_room() -> None:
    async with served(max_connections=2) as (_, site), contextlib.AsyncExitStack() as stack:
        first, second, third = [
            await stack.enter_async_context(connected(site.port)) for _ in range(3)
        ]
        assert await first.read_end() == b""
        for client in (second, third):
            await client.send(GET)
            assert (await client.read_answer())[0] == 200


async def test_past_the_limit_of_busy_connections_a_new_one_is_closed(
    quiet: pytest.LogCaptureFixture,
) -> None:
    async with served(max_connections=2) as (desk, site), contextlib.AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(connected(site.port)) for _ in range(2)]
        for client in busy:
            await client.send(WAIT)
        await desk.entered.wait()
        for _ in range(50):
            async with connected(site.port) as refused:
                assert await refused.read_end() == b""
        desk.go_on.set()
        for client in busy:
            assert (await client.read_answer())[2] == b"done"
    assert len(quiet.messages) == 1


async def test_hundreds_of_clients_that_say_nothing_keep_nobody_out(
    quiet: pytest.LogCaptureFixture,
) -> None:
    async with served(max_connections=20) as (_, site), contextlib.AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(connected(site.port))
        client = await stack.enter_async_context(connected(site.port))
        await client.send(GET)
        assert (await client.read_answer())[0] == 200
        await until(lambda: len(site.connections) <= 20)
    assert quiet.messages == []


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        GET[:10],
        GET,
        WAIT,
        WAIT + GET,
        b"POST /wait HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n1",
    ],
)
async def test_whatever_a_client_does_closing_ends_it(sent: bytes) -> None:
    async with served() as (_, site), connected(site.port) as client:
        await client.send(sent)
        # A later connection is served after an earlier one was read.
        async with connected(site.port) as other:
            await other.send(GET)
            await other.read_answer()
        await site.connections.close(0.1)
        assert len(site.connections) == 0


async def test_closing_ends_a_client_that_does_not_read() -> None:
    async with served() as (desk, site), deaf(site.port, STREAM):
        await desk.entered.wait()
        await site.connections.close(0.1)
        assert len(site.connections) == 0


async def test_closing_lets_an_answer_finish_and_says_that_the_connection_ends() -> None:
    async with served() as (desk, site), connected(site.port) as client:
        await client.send(WAIT)
        await desk.entered.wait()
        closing = asyncio.create_task(site.connections.close(DEADLINE_S))
        await asyncio.sleep(0)
        desk.go_on.set()
        assert (await client.read_answer())[2] == b"done"
        assert await client.read_end() == b""
        await closing
