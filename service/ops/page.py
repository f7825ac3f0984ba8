"""GET / and GET /assets/{name}: the page, which holds no data of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from service.errors import RouteNotFound, excerpt

FOLDER = Path(__file__).parents[1] / "page"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing is loaded from elsewhere, nothing inline runs, and nobody can frame the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Asked for again each time, and answered by 304: an upgrade is seen at once.
    "cache-control": "no-cache",
}
TAG_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page, read once."""

    body: bytes
    headers: dict[str, str]


class PageEndpoints:
    """Serves the files of `folder` from memory: no name of a request is ever a path."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._assets = {path.name: read_asset(path) for path in sorted(folder.iterdir())}

    async def index(self, request: Request) -> Response:
        """The page itself."""
        return self._answer(request, INDEX)

    async def asset(self, request: Request) -> Response:
        """One of its other files.

        Raises:
            RouteNotFound: there is none of that name.
        """
        return self._answer(request, request.path_params["name"])

    def _answer(self, request: Request, name: str) -> Response:
        found = self._assets.get(name)
        if found is None:
            raise RouteNotFound(f"The page has no file {excerpt(name, 100)}.")
        if request.headers.get("if-none-match") == found.headers["etag"]:
            return Response(status_code=304, headers=found.headers)
        return Response(found.body, headers=found.headers)


def read_asset(path: Path) -> Asset:
    """A file with its headers."""
    body = path.read_bytes()
    tag = hashlib.sha256(body).hexdigest()[:TAG_DIGITS]
    return Asset(body, {**HEADERS, "content-type": MEDIA_TYPES[path.suffix], "etag": f'"{tag}"'})
