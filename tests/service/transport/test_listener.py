"""Connections on a real port, on both event loops: limits, stalls, and how each one ends."""

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

from protocol.units import MIB
from tests.service.transport.raw_connection import ServedApp, connected, serving
from tests.waiting import HANG_S

pytestmark = pytest.mark.anyio

POLL_S = 0.01
CHUNK = b"x" * 65536
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
STREAM = b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loops that the service runs on."""
    return "asyncio", {"use_uvloop": request.param}


class StreamApp:
    """An app: `/stream` never ends, `/wait` ends after `go_on`, other paths end at once."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.disconnected = asyncio.Event()
        self.go_on = asyncio.Event()
        self.streamed_bytes = 0
        self.waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        match scope["path"]:
            case "/stream":
                await self._until_disconnect(receive, self._stream(send))
            case "/wait":
                await self._until_disconnect(receive, self._wait(send))
            case path:
                response = PlainTextResponse(path, headers={"version": scope["http_version"]})
                await response(scope, receive, send)

    async def _until_disconnect(self, receive: Receive, response: Any) -> None:
        task = asyncio.create_task(response)
        self.started.set()
        self.waiting += 1
        while (await receive())["type"] != "http.disconnect":
            pass
        task.cancel()
        await asyncio.wait([task])
        self.disconnected.set()

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            self.streamed_bytes += len(CHUNK)
            await asyncio.sleep(0)

    async def _wait(self, send: Send) -> None:
        await self.go_on.wait()
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"done"})


@contextlib.asynccontextmanager
async def served(**limits: Any) -> AsyncIterator[tuple[StreamApp, ServedApp]]:
    """Serve the app. At the end none of its tasks, connections and descriptors may be left."""
    app = StreamApp()
    tasks, sockets = len(asyncio.all_tasks()), open_sockets()
    async with asyncio.timeout(HANG_S):
        async with serving(app, **limits) as server:
            yield app, server
        await until(lambda: len(asyncio.all_tasks()) <= tasks and open_sockets() <= sockets)


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Check that no test makes Hypercorn or asyncio log an error."""
    caplog.set_level(logging.INFO)
    yield caplog
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def open_sockets() -> int:
    """The number of this process's sockets. libuv opens descriptors of other kinds at any time."""
    return sum(path.is_socket() for path in Path("/dev/fd").iterdir())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`; the test's deadline limits the wait."""
    while not condition():  # noqa: ASYNC110 (what is counted here sets no event)
        await asyncio.sleep(POLL_S)


async def until_closed(server: ServedApp) -> None:
    """Wait until every connection is closed."""
    await until(lambda: len(server.connections) == 0)


# ---------------------------------------------------------------- clients that do not read


@contextlib.asynccontextmanager
async def unread(port: int, request: bytes) -> AsyncIterator[socket.socket]:
    """A client that sends a request and never reads, with a small receive buffer."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        await asyncio.get_running_loop().sock_sendall(client, request)
        yield client


async def test_a_client_that_does_not_read_is_disconnected(log: pytest.LogCaptureFixture) -> None:
    async with served(write_stall_s=0.2) as (app, server), unread(server.port, STREAM):
        await app.disconnected.wait()
        await until_closed(server)
        assert app.streamed_bytes < 8 * MIB
    assert "disconnecting clients that do not read" in log.text


async def test_a_client_that_does_not_read_the_rest_of_a_complete_response_is_disconnected() -> (
    None
):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = CHUNK * 64
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        sent.set()

    sent = asyncio.Event()
    async with (
        asyncio.timeout(HANG_S),
        serving(app, write_stall_s=0.2) as server,
        unread(server.port, GET),
    ):
        await sent.wait()
        await until_closed(server)
        assert len(server.connections) == 0


async def test_a_client_that_reads_slowly_is_not_disconnected() -> None:
    async with served(write_stall_s=3.0) as (app, server), connected(server.port) as client:
        await client.send(STREAM)
        for _ in range(40):
            await client.reader.readexactly(len(CHUNK))
            await asyncio.sleep(0.1)
        assert not app.disconnected.is_set()


async def test_others_are_served_while_one_does_not_read() -> None:
    async with served() as (app, server), unread(server.port, STREAM):
        await app.started.wait()
        async with connected(server.port) as client:
            for _ in range(20):
                await client.send(GET)
                assert (await client.read_response())[0] == 200


# ---------------------------------------------------------------- clients that disconnect


@pytest.mark.parametrize("request_", [STREAM, WAIT, STREAM + GET * 3, WAIT + GET * 3])
async def test_a_disconnect_is_noticed_even_with_pipelined_requests(request_: bytes) -> None:
    async with served() as (app, server):
        async with connected(server.port) as client:
            await client.send(request_)
            await app.started.wait()
            client.writer.transport.abort()
        await app.disconnected.wait()
        await until_closed(server)
        assert len(server.connections) == 0


@pytest.mark.parametrize("request_", [WAIT, WAIT + GET])
async def test_a_client_that_closes_its_sending_half_counts_as_disconnected(
    request_: bytes,
) -> None:
    async with served() as (app, server), connected(server.port) as client:
        await client.send(request_)
        await app.started.wait()
        client.writer.write_eof()
        await app.disconnected.wait()
        assert await client.read_end() == b""
        await until_closed(server)


async def test_a_disconnect_of_an_idle_connection_is_noticed() -> None:
    async with served() as (_, server):
        async with connected(server.port) as client:
            await client.send(GET)
            assert (await client.read_response())[0] == 200
        await until_closed(server)


# ---------------------------------------------------------------- clients that wait


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: te", GET])
async def test_a_connection_without_a_whole_request_ends_after_the_idle_time(sent: bytes) -> None:
    # What is sent has to come in this time, on a busy machine too.
    idle_timeout_s = 2.0 if sent == GET else 0.2
    async with (
        served(idle_timeout_s=idle_timeout_s) as (_, server),
        connected(server.port) as client,
    ):
        await client.send(sent)
        answer = await client.read_end()
        assert (b"200" in answer) is (sent == GET)
        await until_closed(server)


async def test_slow_headers_do_not_keep_a_connection_open() -> None:
    async with served(idle_timeout_s=0.2) as (_, server), connected(server.port) as client:
        await client.send(GET[:-2])
        end = asyncio.create_task(client.read_end())
        with contextlib.suppress(ConnectionError):
            while not end.done():
                await client.send(b"a: b\r\n")
                await asyncio.sleep(POLL_S)
        assert await end == b""


async def test_a_request_in_progress_outlasts_the_idle_time() -> None:
    async with served(idle_timeout_s=1.0) as (app, server), connected(server.port) as client:
        await client.send(WAIT)
        async with connected(server.port) as idle:
            await idle.read_end()
        app.go_on.set()
        assert (await client.read_response())[2] == b"done"


# ---------------------------------------------------------------- too many clients


async def test_at_the_limit_the_longest_idle_connection_is_closed() -> None:
    async with served(max_connections=2) as (_, server), contextlib.AsyncExitStack() as stack:
        first, second, third = [
            await stack.enter_async_context(connected(server.port)) for _ in range(3)
        ]
        assert await first.read_end() == b""
        for client in (second, third):
            await client.send(GET)
            assert (await client.read_response())[0] == 200


async def test_at_the_limit_of_busy_connections_a_new_one_is_closed(
    log: pytest.LogCaptureFixture,
) -> None:
    async with served(max_connections=2) as (app, server), contextlib.AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(connected(server.port)) for _ in range(2)]
        for client in busy:
            await client.send(WAIT)
        await app.started.wait()
        for _ in range(50):
            async with connected(server.port) as refused:
                assert await refused.read_end() == b""
        app.go_on.set()
        for client in busy:
            assert (await client.read_response())[2] == b"done"
    assert len(log.messages) == 1


async def test_hundreds_of_silent_clients_do_not_keep_other_clients_out(
    log: pytest.LogCaptureFixture,
) -> None:
    async with served(max_connections=20) as (_, server), contextlib.AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(connected(server.port))
        client = await stack.enter_async_context(connected(server.port))
        await client.send(GET)
        assert (await client.read_response())[0] == 200
        await until(lambda: len(server.connections) <= 20)
    assert log.messages == []


# ---------------------------------------------------------------- closing


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
async def test_closing_ends_every_connection(sent: bytes) -> None:
    async with served() as (_, server), connected(server.port) as client:
        await client.send(sent)
        # The response to a later connection shows that the earlier one was read.
        async with connected(server.port) as other:
            await other.send(GET)
            await other.read_response()
        await server.connections.close(0.1)
        assert len(server.connections) == 0


async def test_closing_ends_the_connection_of_a_client_that_does_not_read() -> None:
    async with served() as (app, server), unread(server.port, STREAM):
        await app.started.wait()
        await server.connections.close(0.1)
        assert len(server.connections) == 0


async def test_closing_lets_a_response_finish_and_then_closes_its_connection() -> None:
    async with served() as (app, server), connected(server.port) as client:
        await client.send(WAIT)
        await app.started.wait()
        closing = asyncio.create_task(server.connections.close(HANG_S))
        await asyncio.sleep(0)
        app.go_on.set()
        assert (await client.read_response())[2] == b"done"
        assert await client.read_end() == b""
        await closing


# ---------------------------------------------------------------- shares of clients

UPLOAD = b"POST /wait HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n1"
PLACES = 4


@contextlib.asynccontextmanager
async def full_of(sent: bytes, name: str = "many") -> AsyncIterator[tuple[StreamApp, ServedApp]]:
    """A server whose connections are all those of one client, which has sent this on each."""
    names: dict[int, str] = {}
    async with contextlib.AsyncExitStack() as stack:
        app, server = await stack.enter_async_context(served(max_connections=PLACES, names=names))
        for _ in range(PLACES):
            client = await stack.enter_async_context(connected(server.port))
            names[client.writer.get_extra_info("sockname")[1]] = name
            await client.send(sent)
        await until(lambda: len(server.connections) == PLACES)
        await until(lambda: sent not in (UPLOAD, WAIT) or app.waiting == PLACES)
        yield app, server
        app.go_on.set()


@pytest.mark.parametrize("sent", [b"", GET, GET[:10], UPLOAD])
async def test_another_client_replaces_a_connection_without_a_whole_request(sent: bytes) -> None:
    async with full_of(sent) as (_, server), connected(server.port) as other:
        await other.send(GET)
        assert (await other.read_response())[0] == 200


async def test_a_client_with_all_connections_replaces_no_request_of_its_own() -> None:
    async with full_of(UPLOAD, name="one") as (_, server), connected(server.port) as other:
        await other.send(GET)
        assert await other.read_end() == b""


async def test_a_whole_request_is_replaced_for_nobody() -> None:
    async with full_of(WAIT) as (app, server), connected(server.port) as other:
        await app.started.wait()
        assert await other.read_end() == b""
