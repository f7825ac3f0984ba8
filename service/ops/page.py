"""GET / and GET /assets/{name}: the static files of the page."""

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
# No resource of another origin is loaded, no inline code runs, and no site can frame the page.
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
    # The browser revalidates every time and gets a 304, so an upgrade takes effect at once.
    "cache-control": "no-cache",
}
TAG_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page, in memory."""

    body: bytes
    headers: dict[str, str]


class PageEndpoints:
    """Serves the files of `folder` from memory, so a request's name is never used as a path."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._assets = {path.name: read_asset(path) for path in sorted(folder.iterdir())}

    async def index(self, request: Request) -> Response:
        """The page's HTML."""
        return self._respond(request, INDEX)

    async def asset(self, request: Request) -> Response:
        """One of the other files.

        Raises:
            RouteNotFound: there is no file of that name.
        """
        return self._respond(request, request.path_params["name"])

    def _respond(self, request: Request, name: str) -> Response:
        asset = self._assets.get(name)
        if asset is None:
            raise RouteNotFound(f"The page has no file {excerpt(name, 100)}.")
        if request.headers.get("if-none-match") == asset.headers["etag"]:
            return Response(status_code=304, headers=asset.headers)
        return Response(asset.body, headers=asset.headers)


def read_asset(path: Path) -> Asset:
    """Read a file, and make its response headers."""
    body = path.read_bytes()
    tag = hashlib.sha256(body).hexdigest()[:TAG_DIGITS]
    return Asset(body, {**HEADERS, "content-type": MEDIA_TYPES[path.suffix], "etag": f'"{tag}"'})
