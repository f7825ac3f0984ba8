"""HTTP/1.0 and 1.1 are served; any other protocol is refused, and nothing is logged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import h11
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.response_parts import part_sender, part_writer
from service.transport.turns import TURNS_PER_ROUND
from tests.service.transport.raw_connection import connected, serving

pytestmark = pytest.mark.anyio

KIB = 1024
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
UPGRADE_TO_H2 = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
UPGRADE_TO_WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(190))


async def echo_scope(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that responds with the type, method, version and path of its scope."""
    parts = (scope[part] for part in ("type", "method", "http_version", "path"))
    await PlainTextResponse(" ".join(parts))(scope, receive, send)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loops that the service runs on."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def port(caplog: pytest.LogCaptureFixture) -> AsyncIterator[int]:
    """The port of the app. Whatever a client sends there, nothing is logged."""
    caplog.set_level(logging.INFO)
    async with serving(echo_scope) as server:
        yield server.port
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("upgrade", [UPGRADE_TO_H2, UPGRADE_TO_WEBSOCKET], ids=["h2c", "websocket"])
async def test_an_upgrade_is_ignored(port: int, upgrade: tuple[str, ...]) -> None:
    async with connected(port) as client:
        for _ in range(2):
            await client.send_headers("/x", *upgrade, method="GET")
            status, _, body = await client.read_response()
            assert (status, body) == (200, b"http GET 1.1 /x")


async def test_http_2_in_clear_text_is_refused(port: int) -> None:
    async with connected(port) as client:
        await client.send(PREFACE)
        answer = await client.read_end()
        assert answer.startswith(b"HTTP/1.1 505 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (TLS_HELLO, 400),
        (b"\x00" * 100, 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
)
async def test_invalid_data_is_refused_and_the_connection_closed(
    port: int, data: bytes, status: int
) -> None:
    async with connected(port) as client:
        await client.send(data)
        head, _, body = (await client.read_end()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close" in head.lower()
        assert b"content-type: application/json" in head.lower()
        error = json.loads(body)["error"]
        assert list(error) == ["message", "type", "param", "code"]
        assert error["type"] == "invalid_request_error"


async def test_a_bad_chunk_ends_the_connection(port: int) -> None:
    async with connected(port) as client:
        await client.send_headers("/x", "Transfer-Encoding: chunked")
        await client.send(b"zz\r\n")
        assert (await client.read_end()).startswith(b"HTTP/1.1 400 ")


async def test_headers_larger_than_the_limit_are_a_431(port: int) -> None:
    async with connected(port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nA: ")
        await client.send(b"a" * 26 * KIB)
        assert (await client.read_end()).startswith(b"HTTP/1.1 431 ")


async def test_headers_within_the_limit_may_arrive_in_pieces() -> None:
    async with (
        serving(echo_scope, max_header_bytes=64 * KIB) as server,
        connected(server.port) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        for _ in range(15):
            await client.send(b"A: " + b"a" * 4 * KIB + b"\r\n")
        await client.send(b"\r\n")
        assert (await client.read_response())[0] == 200


async def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    async with connected(port) as client:
        requests = [f"GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n" for n in range(20)]
        await client.send("".join(requests).encode())
        for n in range(20):
            assert (await client.read_response())[2] == f"http GET 1.1 /{n}".encode()


async def test_http_1_0_is_answered_and_closed(port: int) -> None:
    async with connected(port) as client:
        await client.send(b"GET /old HTTP/1.0\r\n\r\n")
        assert (await client.read_end()).endswith(b"\r\n\r\nhttp GET 1.0 /old")


async def test_the_response_for_head_has_no_body(port: int) -> None:
    async with connected(port) as client:
        await client.send(b"HEAD /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = (await client.read_end()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == b""


# More than the system holds for a client that does not read.
PART, MOST_PARTS = b"x" * 64 * KIB, 1000
CHUNKS = [b"a", b"", b"data: {}\n\n", b"\r\n0\r\n\r\n", b"x" * 70_000, b"end"]


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that sends its body in chunks; at `/sized` with a Content-Length."""
    size = [(b"content-length", b"%d" % len(b"".join(CHUNKS)))]
    headers = size if scope["path"] == "/sized" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for chunk in CHUNKS:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def stream_parts(scope: Scope, receive: Receive, send: Send) -> None:
    """The same, whose chunks go to the connection directly."""
    send_part = part_sender(scope, send)

    async def send_short(message: Message) -> None:
        if message["type"] == "http.response.body" and message.get("more_body"):
            await send_part(message["body"])
        else:
            await send(message)

    await stream(scope, receive, send_short)


async def write_parts(scope: Scope, receive: Receive, send: Send) -> None:
    """The same, whose chunks are written without a wait wherever that can be done."""
    writer = part_writer(scope)

    async def send_short(message: Message) -> None:
        is_part = message["type"] == "http.response.body" and message.get("more_body")
        if is_part and message["body"] and writer is not None and writer.is_ready:
            writer.write(message["body"])
        else:
            await send(message)

    await stream(scope, receive, send_short)


@pytest.mark.parametrize("app", [stream, stream_parts, write_parts])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", ["/sized", "/unsized"])
async def test_a_body_in_chunks_is_framed_for_its_client(
    version: str, path: str, app: ASGIApp
) -> None:
    async with serving(app) as server, connected(server.port) as client:
        request = f"GET {path} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n"
        await client.send(request.encode())
        answer = await client.read_end()
    is_chunked = b"transfer-encoding: chunked" in answer.lower()
    assert is_chunked == (path == "/unsized" and version == "1.1")
    assert body_of(answer) == b"".join(CHUNKS)


def body_of(answer: bytes) -> bytes:
    """The body of a whole answer, of any framing."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(answer)
    reader.receive_data(b"")
    parts = []
    while not isinstance(event := reader.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            parts.append(bytes(event.data))
    return b"".join(parts)


async def test_parts_are_written_at_once_only_while_the_client_reads() -> None:
    written: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    # Whether it is ready: before the response begins, once the client has read, and at the end.
    ready: list[bool] = []

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        writer = part_writer(scope)
        assert writer is not None
        ready.append(writer.is_ready)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        count = 0
        while writer.is_ready and count < MOST_PARTS:
            writer.write(PART)
            count += 1
        written.set_result(count)
        await part_sender(scope, send)(PART)
        ready.append(writer.is_ready)
        await send({"type": "http.response.body", "body": b""})
        ready.append(writer.is_ready)

    async with serving(flood) as server, connected(server.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert 0 < await written < MOST_PARTS
        assert ready == [False]
        assert body_of(await client.read_end()) == PART * (written.result() + 1)
        assert ready == [False, True, False]


@pytest.mark.parametrize("app", [stream, stream_parts, write_parts])
async def test_a_streamed_response_for_head_has_no_body(app: ASGIApp) -> None:
    async with serving(app) as server, connected(server.port) as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await client.read_end()).endswith(b"\r\n\r\n")


async def test_requests_that_arrive_at_once_are_begun_a_few_in_each_round_of_the_loop() -> None:
    rounds = [0]

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        rounds[-1] += 1
        await PlainTextResponse("")(scope, receive, send)

    async with serving(count) as server, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server.port)) for _ in range(40)]
        for client in clients:
            own: socket.socket = client.writer.get_extra_info("socket")
            # The service does not run meanwhile.
            os.write(own.fileno(), b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        while sum(rounds) < len(clients):
            rounds.append(0)
            await asyncio.sleep(0)
        for client in clients:
            assert (await client.read_response())[0] == 200
    assert 0 < max(rounds) <= TURNS_PER_ROUND
