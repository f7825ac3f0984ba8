"""The page's files are served with a strict content security policy, and no other file is."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from service.http.error_middleware import ErrorMiddleware
from service.ops.page import FOLDER, MEDIA_TYPES, PageEndpoints

pytestmark = pytest.mark.anyio

FILES = sorted(FOLDER.iterdir())
SOURCES = [path for path in FILES if path.suffix in (".html", ".js")]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    page = PageEndpoints()
    routes = [Route("/", page.index), Route("/assets/{name:path}", page.asset)]
    app = Starlette(routes=routes, middleware=[Middleware(ErrorMiddleware)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


async def test_the_policy_allows_only_the_pages_own_origin(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"https?:", policy) == []
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-type"] == "text/html; charset=utf-8"


CONTENTS = {path: path.read_bytes() for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
async def test_every_file_is_served_with_its_media_type(
    client: httpx.AsyncClient, path: Path
) -> None:
    response = await client.get(f"/assets/{path.name}")
    assert response.content == CONTENTS[path]
    assert response.headers["content-type"] == MEDIA_TYPES[path.suffix]
    assert "content-security-policy" in response.headers


async def test_an_unchanged_file_is_not_sent_again(client: httpx.AsyncClient) -> None:
    tag = (await client.get("/")).headers["etag"]
    response = await client.get("/", headers={"if-none-match": tag})
    assert (response.status_code, response.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["nonesuch.js", "..%2f__init__.py", "%2e%2e/app.py", "/etc/passwd", "index.html%00"]
)
async def test_no_other_file_is_served(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/assets/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_of_the_page_needs_what_the_policy_forbids(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not re.search(r"\sstyle=|\son[a-z]+=\"|<script>|<style|javascript:|innerHTML", text)
    urls = re.findall(r"https?://[^\s\"']+", text)
    assert set(urls) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_asset_that_a_source_names_exists(path: Path) -> None:
    names = re.findall(r"/assets/([\w.-]+)", path.read_text("utf-8"))
    assert set(names) <= {file.name for file in FILES}
