"""Authentication of requests: API keys, their rate limits, and administration.

Once keys are configured every path needs one, whether it exists or not, except the paths
listed here. No part of a presented key is logged or sent back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.config.api_keys import ApiKey
from service.errors import AdminOnly, InvalidApiKey, MlxdError
from service.security.addresses import is_loopback
from service.security.keyring import KeyRing
from service.security.rate_limits import RateLimits, TokenBucket
from service.security.visibility import Visibility, set_visibility, visible_error

# /health is for monitoring: without a key it tells the status alone. The page contains no data.
OPEN_PATHS = frozenset({"/", "/health"})
OPEN_PREFIX = "/assets/"
ADMIN_PATH = "/admin"
BEARER = b"bearer"
AUTHORIZATION, KEY_HEADER = b"authorization", b"x-api-key"
# Proxies set these: a request with one of them may come from another machine.
FORWARDING_HEADERS = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"}
)

RawHeaders = Iterable[tuple[bytes, bytes]]


class Spending(NamedTuple):
    """What requests to a path use of their key's limits: a place each, and `tokens` perhaps."""

    methods: tuple[str, ...]
    tokens: bool


class AuthenticationMiddleware:
    """ASGI middleware that requires an API key and applies its rate limits.

    It stores what the caller may see (`set_visibility`), and puts the key's name into
    `scope["state"]["key_name"]` for the log, and the key's `TokenBucket` into
    `scope["state"]["token_bucket"]`; `scope["state"]["key_priority"]` is the key's lowest
    priority, if it has one. The rate limits apply to the paths of `spending`.
    It must be inside `ErrorMiddleware`, because it raises.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        rate_limits: RateLimits,
        spending: Mapping[str, Spending],
    ) -> None:
        self.app = app
        self.keys = keys
        self.rate_limits = rate_limits
        self.spending = spending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path: str = scope["path"]
        self.keys.refresh()
        if not self.keys.required:
            local = is_local(scope)
            set_visibility(scope, Visibility.ALL if local else Visibility.STATUS)
            if is_admin(path) and not local:
                raise AdminOnly("Without API keys, only local clients may use /admin.")
            return await self._call(scope, receive, send)
        presented = presented_keys(scope["headers"])
        key = next(filter(None, map(self.keys.find, presented)), None)
        set_visibility(scope, visibility_for(key, scope))
        if is_open(path):
            return await self._call(scope, receive, send)
        if key is None:
            raise InvalidApiKey(
                "A valid API key is required: `Authorization: Bearer KEY` or `x-api-key: KEY`."
            )
        if is_admin(path) and not key.admin:
            raise AdminOnly("This API key is not an administrator's.")
        scope.setdefault("state", {})["key_name"] = key.name
        if key.priority is not None:
            scope["state"]["key_priority"] = key.priority
        spending = self.spending.get(path)
        if spending is None or scope["method"] not in spending.methods:
            return await self._call(scope, receive, send)
        token_bucket = self.rate_limits.bucket_for(key)
        token_bucket.acquire(needs_tokens=spending.tokens)
        return await self._call_limited(token_bucket, scope, receive, send)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app; its errors have no text that the caller may not see."""
        try:
            await self.app(scope, receive, send)
        except MlxdError as error:
            visible_error(error, scope)
            raise

    async def _call_limited(
        self, token_bucket: TokenBucket, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).raw.extend(token_bucket.headers())
            await send(message)

        scope["state"]["token_bucket"] = token_bucket
        try:
            await self._call(scope, receive, send_with_limits)
        finally:
            token_bucket.release()


def is_open(path: str) -> bool:
    """Whether the path is served without a key."""
    if path in OPEN_PATHS:
        return True
    return path.startswith(OPEN_PREFIX) and "/" not in path[len(OPEN_PREFIX) :]


def is_admin(path: str) -> bool:
    """Whether the path belongs to administration."""
    return path == ADMIN_PATH or path.startswith(f"{ADMIN_PATH}/")


def visibility_for(key: ApiKey | None, scope: Scope) -> Visibility:
    """What the caller with this key may see, None for no valid key."""
    if key is None or not has_host(scope):
        return Visibility.STATUS
    return Visibility.ALL if key.admin else Visibility.WITHOUT_PATHS


def has_host(scope: Scope) -> bool:
    """Whether the request has a `Host`; HTTP/1.0 permits that it has none."""
    return any(name == b"host" for name, _ in scope["headers"])


def is_local(scope: Scope) -> bool:
    """Whether a local client sent the request, without a proxy and not from another site's page."""
    if not has_host(scope):
        return False
    client = scope.get("client")
    if not client or not is_loopback(client[0]):
        return False
    headers = dict(scope["headers"])
    same_origin = headers.get(b"origin", b"").partition(b"://")[2] in (b"", headers.get(b"host"))
    return same_origin and FORWARDING_HEADERS.isdisjoint(headers)


def presented_keys(headers: RawHeaders) -> list[bytes]:
    """The bearer token of a request, then its `x-api-key`; of a header sent twice neither."""
    headers = list(headers)
    keys = []
    if (authorization := _only_value(headers, AUTHORIZATION)) is not None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() == BEARER:
            keys.append(token.strip())
    if (key := _only_value(headers, KEY_HEADER)) is not None:
        keys.append(key)
    return keys


def _only_value(headers: RawHeaders, name: bytes) -> bytes | None:
    """The value of the header `name`; None if it is missing or sent more than once."""
    values = [value.strip() for found, value in headers if found == name]
    return values[0] if len(values) == 1 else None
