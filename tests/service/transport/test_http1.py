"""Framing, targets, empty lines and `Expect` follow RFC 9112 and RFC 9110."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.config.settings import Settings
from service.http.body_budget import BodyBudget
from service.http.error_middleware import ErrorMiddleware
from service.http.header_limits import require_json
from service.http.request_body import RequestReaderMiddleware
from service.transport.http1 import split_target
from tests.service.http.driven_request import find_client
from tests.service.transport.raw_connection import connected, serving

pytestmark = pytest.mark.anyio

CHUNKED = b"3\r\nabc\r\n0\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 "


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the target, the host and the body; `/refused` is refused by its headers."""
    if scope["path"] == "/refused":
        require_json(scope)
    body = await scope["state"]["request_reader"].body()
    await JSONResponse(
        {
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "host": Headers(scope=scope).getlist("host"),
            "body": body.decode(),
        }
    )(scope, receive, send)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of an app that reads bodies of at most 1,024 bytes."""
    settings = Settings(max_body_bytes=1024)
    budget = BodyBudget(settings.body_memory_bytes)
    app = RequestReaderMiddleware(ErrorMiddleware(echo), settings, budget, find_client)
    async with serving(app) as server:
        yield server.port


def echoed(answer: bytes) -> dict[str, object]:
    """The JSON body of the only answer."""
    assert answer.count(b"HTTP/1.1 ") == 1
    value: dict[str, object] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return value


# ---------------------------------------------------------------- framing


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: CHUNKED\r\nContent-Length: 9999",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\nConnection: keep-alive",
    ],
)
async def test_after_both_framings_the_answer_is_the_last_one(port: int, framing: str) -> None:
    async with connected(port) as client:
        head = f"POST /x HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode()
        await client.send(head + CHUNKED + NEXT)
        answer = await client.read_end()
    assert echoed(answer)["body"] == "abc"
    assert answer.lower().count(b"connection: close") == 1


async def test_after_a_chunked_body_in_http_1_0_the_connection_closes(port: int) -> None:
    async with connected(port) as client:
        head = b"POST /x HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + CHUNKED + NEXT)
        assert echoed(await client.read_end())["body"] == "abc"


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
        ("Transfer-Encoding: chunked, chunked", 501),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: identity", 501),
        ("Transfer-Encoding: xchunked\r\nContent-Length: 3", 501),
        ("Transfer-Encoding : chunked", 400),
        ("Transfer-Encoding: \x0bchunked", 400),
        ("Content-Length: 3\r\nContent-Length: 4", 400),
        ("Content-Length: 3, 4", 400),
        ("Content-Length: -3", 400),
        ("Content-Length: +3", 400),
        ("Content-Length: 0x3", 400),
        ("Content-Length: 3 3", 400),
        ("Content-Length:", 400),
        ("Host: y", 400),
        ("name", 400),
    ],
)
async def test_an_unclear_framing_is_refused_and_nothing_after_it_is_served(
    port: int, framing: str, status: int
) -> None:
    async with connected(port) as client:
        head = f"POST /x HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode("latin-1")
        await client.send(head + CHUNKED + NEXT)
        answer = await client.read_end()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    error = echoed(answer)["error"]
    assert isinstance(error, dict)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (b"no request\r\n\r\n", 400, "illegal request line: `no request`"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400, "illegal header line: `no colon`"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000, 431, "larger than"),
        (b"GET / HTTP/2.0\r\n\r\n", 505, "Only the versions 1.0 and 1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "Only the versions 1.0 and 1.1"),
        (b"head / HTTP/1.1\r\nHost: x\r\n\r\n" + NEXT, 501, "`head` is no"),
        (b"Post / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 501, "`Post` is no"),
    ],
)
async def test_a_refusal_says_what_is_wrong_and_the_connection_closes(
    port: int, sent: bytes, status: int, text: str
) -> None:
    async with connected(port) as client:
        await client.send(sent)
        answer = await client.read_end()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    error = echoed(answer)["error"]
    assert isinstance(error, dict)
    assert text in error["message"]
    assert answer.lower().count(b"connection: close") == 1


@pytest.mark.parametrize(
    ("sent", "is_anthropics"),
    [
        (b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", True),
        (b"POST http://x/v1/messages HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000, True),
        (b"POST HTTP://x/v1/messages HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", True),
        (b"post /v1/messages HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAnthropic-Version: 1\r\nno colon\r\n\r\n", True),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", False),
    ],
)
async def test_a_refusal_has_the_shape_that_the_client_reads(
    port: int, sent: bytes, is_anthropics: bool
) -> None:
    async with connected(port) as client:
        await client.send(sent)
        answer = await client.read_end()
    body = echoed(answer)
    assert (body.get("type") == "error") == is_anthropics
    if is_anthropics:
        assert f"\r\nrequest-id: {body['request_id']}\r\n".encode() in answer


async def test_a_bad_chunk_is_refused_in_json_and_nothing_after_it_is_served(port: int) -> None:
    async with connected(port) as client:
        await client.send_headers("/x", "Transfer-Encoding: chunked")
        await client.send(b"3\r\nabc\r\nzz\r\n" + NEXT)
        answer = await client.read_end()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "error" in echoed(answer)


async def test_large_input_after_an_invalid_request_does_not_lose_the_answer(port: int) -> None:
    async with connected(port) as client:
        await client.send(b"no request\r\n\r\n" + b"x" * 500_000)
        assert "error" in echoed(await client.read_end())


async def test_bytes_after_the_last_request_are_ignored(port: int) -> None:
    async with connected(port) as client:
        await client.send(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n\r\n" + NEXT)
        assert echoed(await client.read_end())["path"] == "/x"


@pytest.mark.parametrize("lines", [b"\r\n", b"\r\n\r\n\r\n", b"\n"])
async def test_empty_lines_before_a_request_are_ignored(port: int, lines: bytes) -> None:
    async with connected(port) as client:
        for _ in range(2):
            await client.send(lines + b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
            assert (await client.read_response())[0] == 200
        for byte in lines + NEXT:
            await client.send(bytes([byte]))
        assert (await client.read_response())[0] == 200


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        ("http://a.example/p/q?r=1&s", "/p/q", "r=1&s", "a.example"),
        ("HTTP://a.example:81/p", "/p", "", "a.example:81"),
        ("http://a.example", "/", "", "a.example"),
        ("http://a.example?r=http://b/", "/", "r=http://b/", "a.example"),
        ("http://[::1]:8000//p", "//p", "", "[::1]:8000"),
        ("http://a.example/p#part", "/p", "", "a.example"),
        ("/http://b.example/", "/http://b.example/", "", "x"),
    ],
)
async def test_the_authority_of_an_absolute_target_replaces_the_host(
    port: int, target: str, path: str, query: str, host: str
) -> None:
    async with connected(port) as client:
        await client.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        body = json.loads((await client.read_response())[2])
    assert (body["path"], body["query"], body["host"]) == (path, query, [host])


@pytest.mark.parametrize(
    "target",
    [
        "path",
        "*",
        "?q",
        "http:/p",
        "http://",
        "http:///p",
        "http://user@a.example/",
        "https://a.example/",
        "ftp://a.example/",
        "://a.example/",
    ],
)
async def test_a_target_of_no_valid_form_is_refused(port: int, target: str) -> None:
    async with connected(port) as client:
        await client.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + NEXT)
        answer = await client.read_end()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "error" in echoed(answer)


async def test_a_refusal_of_head_has_no_body(port: int) -> None:
    async with connected(port) as client:
        await client.send(b"HEAD path HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.read_end()).endswith(b"\r\n\r\n")


@given(
    authority=st.text("abc.:[]0123456789-", min_size=1),
    path=st.text("/abc:%@", max_size=20),
    query=st.text("abc/?:@=&", max_size=20),
)
def test_an_absolute_target_is_split_into_its_parts(authority: str, path: str, query: str) -> None:
    target = f"https://{authority}/{path}?{query}"
    request = h11.Request(method="GET", target=target, headers=[("Host", "x")])
    assert split_target(request, tls=True) == (f"/{path}?{query}".encode(), authority.encode())


# ---------------------------------------------------------------- expectations


async def test_a_client_that_waits_is_told_to_continue_once(port: int) -> None:
    async with connected(port) as client:
        await client.send_headers("/x", "Expect: 100-continue", "Content-Length: 3")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(CONTINUE)
        await client.send(b"abc")
        status, _, body = await client.read_response()
        assert (status, json.loads(body)["body"]) == (200, "abc")


async def test_a_client_that_does_not_wait_for_it_gets_one_answer(port: int) -> None:
    async with connected(port) as client:
        await client.send_headers(
            "/x", "Expect: 100-continue", "Content-Length: 3", "Connection: close"
        )
        await client.send(b"abc")
        answer = (await client.read_end()).removeprefix(CONTINUE + b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("Content-Length: 1025", "Content-Type: application/json"), 413),
        (("Content-Length: 3", "Content-Type: text/plain"), 415),
        (("Content-Length: 3", "Content-Type: application/json", "Content-Encoding: br"), 415),
    ],
)
async def test_no_continue_is_sent_before_a_refusal_by_the_headers(
    port: int, headers: tuple[str, ...], status: int
) -> None:
    async with connected(port) as client:
        await client.send_headers("/refused", "Expect: 100-continue", *headers)
        answer = await client.read_end()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert "error" in echoed(answer)


# ---------------------------------------------------------------- content codings


@pytest.mark.parametrize(
    ("codings", "status"),
    [
        (("gzip",), 415),
        (("GZIP",), 415),
        (("identity, gzip",), 415),
        (("identity", "br"), 415),
        (("x-unknown",), 415),
        (("identity",), 200),
        (("Identity",), 200),
        (("",), 200),
    ],
)
async def test_a_compressed_body_is_refused(
    port: int, codings: tuple[str, ...], status: int
) -> None:
    headers = ("Content-Type: application/json", "Content-Length: 2", "Connection: close")
    async with connected(port) as client:
        encodings = [f"Content-Encoding: {coding}" for coding in codings]
        await client.send_headers("/refused", *headers, *encodings)
        await client.send(b"{}")
        answer = await client.read_end()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"accept-encoding: identity" in answer.lower()) == (status == 415)


async def test_the_state_of_one_request_is_not_that_of_the_next() -> None:
    seen: list[object] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"].get("mark"))
        scope["state"]["mark"] = True
        await PlainTextResponse(Request(scope).method)(scope, receive, send)

    async with serving(note) as server, connected(server.port) as client:
        for _ in range(2):
            await client.send(NEXT)
            await client.read_response()
    assert seen == [None, None]
