"""Checks the `Host` and `Origin` of requests: the service's names, and the allowed web sites.

A page of any web site can make a browser send requests to this machine. It cannot forge
`Host`, `Origin` and `Sec-Fetch-Site`, which identify the page, and it cannot send JSON
without a preflight request. So requests from a page whose name was rebound to this address
(DNS rebinding), and from a form, an image or a script of another site, are refused before
any work is done for them.

Starlette's TrustedHostMiddleware (1.10) is not used: it parses `[::1]` as a name, and its
responses are plain text. Its CORSMiddleware is used for the allowed origins. Alone it is not
enough: it executes other requests, and only hides the responses from their senders.
"""

from __future__ import annotations

import functools
import re
import socket
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.config.scalars import SettingsError
from service.errors import (
    RETRY_AFTER_HEADER,
    SHOULD_RETRY_HEADER,
    HostNotAllowed,
    OriginNotAllowed,
    UnsupportedContentCoding,
    UnsupportedMediaType,
    excerpt,
)
from service.http.anthropic_errors import REQUEST_ID_HEADER as ANTHROPIC_ID_HEADER
from service.http.error_middleware import (
    DROPPED_HEADER,
    LEFT_OUT_HEADER,
    REPLICA_HEADER,
    REQUEST_ID_HEADER,
)
from service.http.header_limits import require_json
from service.http.unknown_fields import IGNORED_HEADER
from service.security.addresses import is_address, is_loopback
from service.security.rate_limits import RATE_LIMIT_HEADERS

WILDCARD = "*"
HEALTH_PATH = "/health"
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:/?#@\s]+)(:[0-9]*)?")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+|null")
HOST_CACHE_ENTRIES = 1024
METHODS = ("DELETE", "GET", "POST")
EXPOSED_HEADERS = (
    RETRY_AFTER_HEADER,
    REQUEST_ID_HEADER,
    ANTHROPIC_ID_HEADER,
    SHOULD_RETRY_HEADER,
    IGNORED_HEADER,
    LEFT_OUT_HEADER,
    DROPPED_HEADER,
    REPLICA_HEADER,
    *RATE_LIMIT_HEADERS,
)

HostRule = Callable[[str], bool]


def parse_list(text: str) -> frozenset[str]:
    """The items of a comma-separated list, in lower case."""
    return frozenset(word.strip().lower() for word in text.split(",") if word.strip())


def parse_hosts(text: str, origin: str) -> frozenset[str]:
    """Comma-separated host names, without ports.

    Raises:
        SettingsError: one is not a host name.
    """
    hosts = parse_list(text)
    for host in hosts - {WILDCARD}:
        if host_name(host) != host:
            raise SettingsError(f"{origin}: {excerpt(host, 100)} is not a host without a port")
    return hosts


def parse_origins(text: str, origin: str) -> frozenset[str]:
    """Comma-separated origins.

    Raises:
        SettingsError: one is not an origin.
    """
    origins = parse_list(text)
    for word in origins - {WILDCARD}:
        if not ORIGIN.fullmatch(word):
            raise SettingsError(
                f"{origin}: {excerpt(word, 100)} is not an origin such as https://app.example"
            )
    return origins


def host_name(header: str) -> str | None:
    """The name or address in a `Host` header, in lower case; None if the header is invalid."""
    match = HOST.fullmatch(header.lower())
    return match["name"].removesuffix(".") if match else None


def make_host_rule(bound: str, extra: frozenset[str]) -> HostRule:
    """The rule that accepts `Host` headers, for a service that listens on the address `bound`.

    On a loopback address it accepts the loopback names and `extra`. On other addresses it also
    accepts this machine's name and any numeric address: DNS rebinding needs a name.
    """
    if WILDCARD in extra:
        return lambda header: True
    loopback = is_loopback(bound)
    machine = socket.gethostname().lower()
    names = {"localhost", *extra, *(() if loopback else (machine, f"{machine}.local"))}

    @functools.lru_cache(HOST_CACHE_ENTRIES)
    def allows(header: str) -> bool:
        name = host_name(header)
        if name is None:
            return False
        address = name.strip("[]")
        return name in names or is_loopback(address) or (not loopback and is_address(address))

    return allows


class OriginGuard:
    """ASGI middleware that refuses requests sent by pages of web sites that are not allowed.

    `is_routed` is whether a route takes a request; others do nothing and get 404 or 405, whatever
    their content type. It must be inside `ErrorMiddleware`, because it raises.
    """

    def __init__(
        self,
        app: ASGIApp,
        allows_host: HostRule,
        origins: frozenset[str],
        is_routed: Callable[[Scope], bool],
    ) -> None:
        self.app = app
        self.allows_host = allows_host
        self.origins = origins
        self.is_routed = is_routed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.check(scope)
        await self.app(scope, receive, send)

    def check(self, scope: Scope) -> None:
        """Refuse a request with a wrong host, origin or content type.

        Raises:
            HostNotAllowed: the `Host` is not one of the service's names.
            OriginNotAllowed: a page of a site that is not allowed sent the request.
            UnsupportedMediaType: the body of a POST is not declared as JSON.
        """
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self.allows_host(host) and not is_old_health_check(scope, headers):
            raise HostNotAllowed(
                f"The host `{excerpt(host, 100)}` is not one of this service's names "
                "(setting allowed_hosts)."
            )
        self._check_origin(scope, host, headers)
        if scope["method"] == "POST":
            self._check_json(scope)

    def _check_json(self, scope: Scope) -> None:
        try:
            require_json(scope)
        except (UnsupportedMediaType, UnsupportedContentCoding):
            # Only then: the route table has dozens of expressions.
            if self.is_routed(scope):
                raise

    def _check_origin(self, scope: Scope, host: str, headers: dict[bytes, bytes]) -> None:
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and allows_origin(self.origins, origin):
            return
        cross_site = headers.get(b"sec-fetch-site") == b"cross-site"
        if origin and (cross_site or origin.partition("://")[2] != host.lower()):
            raise OriginNotAllowed(
                f"Pages of `{excerpt(origin, 100)}` may not use this service "
                "(setting allowed_origins)."
            )
        if (
            cross_site
            and not is_navigation(scope["method"], headers)
            and WILDCARD not in self.origins
        ):
            raise OriginNotAllowed("Pages of other sites may not use this service.")


def is_old_health_check(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Whether this is HTTP/1.0 without a `Host`, as some monitors send it, to /health.

    Browsers always send a `Host`.
    """
    is_old = scope["http_version"] == "1.0" and b"host" not in headers
    return is_old and scope["path"] == HEALTH_PATH


def allows_origin(origins: frozenset[str], origin: str) -> bool:
    """Whether pages of `origin`, in lower case, may call the service."""
    return origin in origins or WILDCARD in origins


def is_navigation(method: str, headers: dict[bytes, bytes]) -> bool:
    """Whether the user followed a link: the browser shows the response, no page can read it."""
    return (
        method == "GET"
        and headers.get(b"sec-fetch-mode") == b"navigate"
        and headers.get(b"sec-fetch-dest") == b"document"
    )


class Cors(CORSMiddleware):
    """Starlette's CORS middleware for allowed origins; `OriginGuard` refuses the others.

    Credentials are never allowed: a page must present an API key of its own.
    """

    def __init__(self, app: ASGIApp, origins: frozenset[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=EXPOSED_HEADERS,
        )
        self._origins = origins
        self._without_cors = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin", "") if scope["type"] == "http" else ""
        if origin and allows_origin(self._origins, origin.lower()):
            await super().__call__(scope, receive, send)
        else:
            await self._without_cors(scope, receive, send)
