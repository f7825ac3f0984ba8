"""The page's files come with a policy that lets nothing else in, and only they are served."""

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


async def test_the_page_lets_in_nothing_that_is_not_its_own(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"https?:", policy) == []
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


CONTENTS = {path: path.read_bytes() for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
async def test_every_file_is_served_with_its_type(client: httpx.AsyncClient, path: Path) -> None:
    answer = await client.get(f"/assets/{path.name}")
    assert answer.content == CONTENTS[path]
    assert answer.headers["content-type"] == MEDIA_TYPES[path.suffix]
    assert "content-security-policy" in answer.headers


async def test_what_has_not_changed_is_not_sent_again(client: httpx.AsyncClient) -> None:
    tag = (await client.get("/")).headers["etag"]
    again = await client.get("/", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["nonesuch.js", "..%2f__init__.py", "%2e%2e/app.py", "/etc/passwd", "index.html%00"]
)
async def test_no_other_file_is_served(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/assets/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_of_the_page_needs_what_the_policy_refuses(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not re.search(r"\sstyle=|\son[a-z]+=\"|<script>|<style|javascript:|innerHTML", text)
    dry_run_host = re.findall(r"https?://[^\s\"']+", text)
    assert set(dry_run_host) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_file_that_a_source_names_is_there(path: Path) -> None:
    named = re.findall(r"/assets/([\w.-]+)", path.read_text("utf-8"))
    assert set(named) <= {file.name for file in FILES}
