"""Who may ask for what: API keys, their limits, and administration.

Everything needs a key once keys are configured, whether a route is there or not, but for
what is listed here. Nothing of a key that was presented is logged or repeated.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import AdminOnly, InvalidApiKey
from service.security.addresses import is_loopback
from service.security.keyring import KeyRing
from service.security.rate_limits import RateLimits, TokenBucket

# /health for what watches the service; the page, which holds no data of its own.
OPEN_PATHS = frozenset({"/", "/health"})
OPEN_FOLDER = "/assets/"
ADMIN = "/admin"
LIMITED = "/v1/"
BEARER = b"bearer"
# Set by proxies: what has one was not sent by its client from this machine.
FORWARDED = frozenset({b"forwarded", b"x-forwarded-for"})

RawHeaders = Iterable[tuple[bytes, bytes]]


class AuthenticationMiddleware:
    """ASGI middleware. Belongs inside `ErrorMiddleware`, as it raises.

    It puts the key's name into `scope["state"]["key_name"]` for the log, and into
    `scope["state"]["token_bucket"]` what the request's tokens are counted with.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, rate_limits: RateLimits) -> None:
        self.app = app
        self.keys = keys
        self.rate_limits = rate_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path: str = scope["path"]
        self.keys.refresh()
        if not self.keys.required:
            if is_admin(path) and not is_local(scope):
                raise AdminOnly("Without API keys, administration is for this machine alone.")
            return await self.app(scope, receive, send)
        if is_open(path):
            return await self.app(scope, receive, send)
        key = self.keys.find(presented_key(scope["headers"]))
        if key is None:
            raise InvalidApiKey("A valid API key is needed: `Authorization: Bearer KEY`.")
        if is_admin(path) and not key.admin:
            raise AdminOnly("This API key is not one for administration.")
        scope.setdefault("state", {})["key_name"] = key.name
        if scope["method"] == "POST" and path.startswith(LIMITED):
            return await self._limit(self.rate_limits.of(key), scope, receive, send)
        return await self.app(scope, receive, send)

    async def _limit(
        self, token_bucket: TokenBucket, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).raw.extend(token_bucket.headers())
            await send(message)

        token_bucket.enter()
        scope["state"]["token_bucket"] = token_bucket
        try:
            await self.app(scope, receive, send_counted)
        finally:
            token_bucket.leave()


def is_open(path: str) -> bool:
    """Whether a path is served without a key."""
    if path in OPEN_PATHS:
        return True
    return path.startswith(OPEN_FOLDER) and "/" not in path[len(OPEN_FOLDER) :]


def is_admin(path: str) -> bool:
    """Whether a path is for administration."""
    return path == ADMIN or path.startswith(f"{ADMIN}/")


def is_local(scope: Scope) -> bool:
    """Whether somebody on this machine sent a request: no proxy on it, and no foreign page."""
    client = scope.get("client")
    if not client or not is_loopback(client[0]):
        return False
    headers = dict(scope["headers"])
    own = headers.get(b"origin", b"").partition(b"://")[2] in (b"", headers.get(b"host"))
    return own and FORWARDED.isdisjoint(headers)


def presented_key(headers: RawHeaders) -> bytes:
    """The bearer token of a request; empty where there is none, or more than one."""
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) != 1:
        return b""
    scheme, _, token = values[0].strip().partition(b" ")
    return token.strip() if scheme.lower() == BEARER else b""
