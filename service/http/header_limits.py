"""What a request's headers must be before its body is looked at."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import HeadersTooLarge, UnsupportedMediaType, excerpt

JSON = "application/json"
# What a header costs besides its name and value: `: ` and the end of its line.
HEADER_OVERHEAD_BYTES = 4


def require_json(scope: Scope) -> None:
    """Refuse a request whose body is not declared as JSON, parameters aside.

    A page of a foreign site can send other types without asking the browser first.

    Raises:
        UnsupportedMediaType: it is declared as something else, or as nothing.
    """
    declared = Headers(scope=scope).getlist("content-type")
    kinds = {value.partition(";")[0].strip().lower() for value in declared}
    if kinds != {JSON}:
        told = f", not `{excerpt(', '.join(declared), 100)}`" if declared else ""
        raise UnsupportedMediaType(f"The Content-Type must be `{JSON}`{told}.")


class HeaderLimitMiddleware:
    """ASGI middleware that refuses requests with too many bytes of headers.

    Hypercorn (0.18) bounds only headers that come in pieces. Belongs inside
    `ErrorMiddleware`, as it raises.
    """

    def __init__(self, app: ASGIApp, max_header_bytes: int) -> None:
        self.app = app
        self.max_header_bytes = max_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _size(scope["headers"]) > self.max_header_bytes:
            raise HeadersTooLarge(
                f"The headers are larger than {self.max_header_bytes} bytes together."
            )
        await self.app(scope, receive, send)


def _size(headers: Iterable[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + HEADER_OVERHEAD_BYTES for name, value in headers)
