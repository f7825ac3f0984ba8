"""Checks on a request's headers before its body is read: their size, and the body's type."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import (
    JSON_MEDIA_TYPE,
    HeadersTooLarge,
    UnsupportedContentCoding,
    UnsupportedMediaType,
    excerpt,
)

# The bytes of a header besides its name and value: `: ` and the end of the line.
HEADER_OVERHEAD_BYTES = 4
IDENTITY = "identity"


def require_json(scope: Scope) -> None:
    """Refuse a request whose body is compressed, or not declared as JSON; parameters are ignored.

    A request without a body needs no declaration.

    A web page of another site can send other types without a preflight request.

    Raises:
        UnsupportedMediaType: the body is declared as another type, or not declared.
        UnsupportedContentCoding: the body has a content coding other than identity.
    """
    codings = Headers(scope=scope).getlist("content-encoding")
    words = {word.strip().lower() for coding in codings for word in coding.split(",")}
    if words - {"", IDENTITY}:
        actual = excerpt(", ".join(codings), 100)
        raise UnsupportedContentCoding(f"The Content-Encoding `{actual}` is not supported.")
    declared = Headers(scope=scope).getlist("content-type")
    if not declared and not has_body(Headers(scope=scope)):
        return
    kinds = {value.partition(";")[0].strip().lower() for value in declared}
    if kinds != {JSON_MEDIA_TYPE}:
        actual = f", not `{excerpt(', '.join(declared), 100)}`" if declared else ""
        raise UnsupportedMediaType(f"The Content-Type must be `{JSON_MEDIA_TYPE}`{actual}.")


def has_body(headers: Headers) -> bool:
    """Whether a request has a body, by its headers."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


class HeaderLimitMiddleware:
    """ASGI middleware that refuses requests with too many bytes of headers.

    Hypercorn (0.18) limits only headers that arrive in several pieces. It must be inside
    `ErrorMiddleware`, because it raises.
    """

    def __init__(self, app: ASGIApp, max_header_bytes: int) -> None:
        self.app = app
        self.max_header_bytes = max_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _size(scope["headers"]) > self.max_header_bytes:
            raise HeadersTooLarge(
                f"The headers together are larger than {self.max_header_bytes} bytes."
            )
        await self.app(scope, receive, send)


def _size(headers: Iterable[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + HEADER_OVERHEAD_BYTES for name, value in headers)
