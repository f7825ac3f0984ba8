from __future__ import annotations

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.errors import UnsupportedMediaType
from service.http.error_middleware import ErrorMiddleware
from service.http.header_limits import HeaderLimitMiddleware, require_json
from tests.checks import expect_no_error


def scope(*types: bytes) -> Scope:
    return {"type": "http", "headers": [(b"content-type", value) for value in types]}


@pytest.mark.parametrize(
    "value",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b"application/json;charset=UTF-8",
        b" application/json ",
    ],
)
def test_json_is_accepted_with_any_parameters(value: bytes) -> None:
    with expect_no_error():
        require_json(scope(value))


@pytest.mark.parametrize(
    "types",
    [
        (b"",),
        (b"text/plain",),
        (b"text/plain; application/json",),
        (b"application/x-www-form-urlencoded",),
        (b"multipart/form-data; boundary=x",),
        (b"application/json5",),
        (b"application/jsonp; charset=utf-8",),
        (b"application/json, text/plain",),
        (b"application/json", b"text/plain"),
        (b"\xff\x1b" * 1000,),
    ],
)
def test_any_other_content_type_is_unsupported(types: tuple[bytes, ...]) -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        require_json(scope(*types))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


def test_a_body_is_declared_and_no_body_needs_no_declaration() -> None:
    length = (b"content-length", b"2")
    with expect_no_error():
        require_json(scope())
    with pytest.raises(UnsupportedMediaType):
        require_json({**scope(), "headers": [length]})
    with pytest.raises(UnsupportedMediaType):
        require_json({**scope(), "headers": [(b"transfer-encoding", b"chunked")]})


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"x-long": "x" * 700}, 200),
        ({"x-long": "x" * 1024}, 431),
        ({f"x-{i}": "" for i in range(200)}, 431),
    ],
)
async def test_the_total_size_of_the_headers_is_limited(
    headers: dict[str, str], status: int
) -> None:
    transport = httpx.ASGITransport(ErrorMiddleware(HeaderLimitMiddleware(hello, 1024)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get("/", headers=headers)
    assert response.status_code == status
    if status == 431:
        assert response.json()["error"]["code"] == "headers_too_large"
