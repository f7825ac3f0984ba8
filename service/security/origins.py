"""Which names the service answers to, and which web sites may call it.

A page of any site can make its reader's browser send requests to this machine. It cannot
forge `Host`, `Origin` and `Sec-Fetch-Site`, which tell of it, nor send JSON without being
allowed. So a page whose name was rebound to this address (DNS rebinding), a form, an image
and a script of a foreign site are all refused before anything is done for them.

Starlette's TrustedHostMiddleware (1.10) is not used: it takes `[::1]` for a name, and
answers in text. Its CORSMiddleware is, for the origins that are allowed; by itself it would
only keep the answers of refused requests from their senders.
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
from service.errors import HostNotAllowed, OriginNotAllowed, excerpt
from service.http.header_limits import require_json
from service.security.addresses import is_address, is_loopback

ANY = "*"
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:/?#@\s]+)(:[0-9]*)?")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+|null")
SEEN_HOSTS = 1024
METHODS = ("DELETE", "GET", "POST")
EXPOSED = (
    "retry-after",
    "x-request-id",
    "x-should-retry",
    *(
        f"x-ratelimit-{part}-{kind}"
        for part in ("limit", "remaining", "reset")
        for kind in ("requests", "tokens")
    ),
)

HostRule = Callable[[str], bool]


def parse_words(text: str) -> frozenset[str]:
    """The words between commas, in small letters."""
    return frozenset(word.strip().lower() for word in text.split(",") if word.strip())


def parse_hosts(text: str, origin: str) -> frozenset[str]:
    """Names with commas between them, without ports.

    Raises:
        SettingsError: one is no name.
    """
    hosts = parse_words(text)
    for host in hosts - {ANY}:
        if host_name(host) != host:
            raise SettingsError(f"{origin}: {excerpt(host, 100)} is no host without a port")
    return hosts


def parse_origins(text: str, origin: str) -> frozenset[str]:
    """Origins with commas between them.

    Raises:
        SettingsError: one is no origin.
    """
    origins = parse_words(text)
    for word in origins - {ANY}:
        if not ORIGIN.fullmatch(word):
            raise SettingsError(
                f"{origin}: {excerpt(word, 100)} is no origin, such as https://app.example"
            )
    return origins


def host_name(header: str) -> str | None:
    """The name or address in a `Host` header, in small letters; None where it is none."""
    matched = HOST.fullmatch(header.lower())
    return matched["name"].removesuffix(".") if matched else None


def make_host_rule(bound: str, extra: frozenset[str]) -> HostRule:
    """Which `Host` headers are ours, for a service that listens on the address `bound`.

    On the loopback address: its names, and `extra`. On others besides: addresses, which no
    foreign name can hide behind, and this machine's own name.
    """
    if ANY in extra:
        return lambda header: True
    loopback = is_loopback(bound)
    machine = socket.gethostname().lower()
    names = {"localhost", *extra, *(() if loopback else (machine, f"{machine}.local"))}

    @functools.lru_cache(SEEN_HOSTS)
    def allows(header: str) -> bool:
        name = host_name(header)
        if name is None:
            return False
        address = name.strip("[]")
        return name in names or is_loopback(address) or (not loopback and is_address(address))

    return allows


class OriginGuard:
    """ASGI middleware that refuses requests sent by web pages of others.

    Belongs inside `ErrorMiddleware`, as it raises.
    """

    def __init__(self, app: ASGIApp, allows_host: HostRule, origins: frozenset[str]) -> None:
        self.app = app
        self.allows_host = allows_host
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.check(scope)
        await self.app(scope, receive, send)

    def check(self, scope: Scope) -> None:
        """Refuse what is not for us.

        Raises:
            HostNotAllowed: it asks for a name that is not ours.
            OriginNotAllowed: a page of a site that is not allowed sends it.
            UnsupportedMediaType: it posts something that is not declared as JSON.
        """
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self.allows_host(host):
            raise HostNotAllowed(
                f"The host `{excerpt(host, 100)}` is none of this service's names "
                "(setting allowed_hosts)."
            )
        self._check_origin(scope, host, headers)
        if scope["method"] == "POST":
            require_json(scope)

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
        if cross_site and not is_navigation(scope["method"], headers) and ANY not in self.origins:
            raise OriginNotAllowed("Pages of other sites may not use this service.")


def allows_origin(origins: frozenset[str], origin: str) -> bool:
    """Whether pages of `origin`, in small letters, may call the service."""
    return origin in origins or ANY in origins


def is_navigation(method: str, headers: dict[bytes, bytes]) -> bool:
    """Whether somebody followed a link: the browser shows the answer, and no page can read it."""
    return (
        method == "GET"
        and headers.get(b"sec-fetch-mode") == b"navigate"
        and headers.get(b"sec-fetch-dest") == b"document"
    )


class Cors(CORSMiddleware):
    """Starlette's, for allowed origins; the others go on to `OriginGuard`, which refuses them.

    Never with credentials: a page must have a key to present, and cannot borrow one.
    """

    def __init__(self, app: ASGIApp, origins: frozenset[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=EXPOSED,
        )
        self._origins = origins
        self._plain = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin", "") if scope["type"] == "http" else ""
        if origin and allows_origin(self._origins, origin.lower()):
            await super().__call__(scope, receive, send)
        else:
            await self._plain(scope, receive, send)
