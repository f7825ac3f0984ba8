"""A value that is nested too deeply is refused by its field, on every endpoint with a body."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette

from service.http.decoding import MAX_SEARCHED_BYTES, find_deepest
from tests.service.inflight.recording_worker import RecordingWorker
from tests.service.parts import describe, make_app

pytestmark = pytest.mark.anyio

MODEL = b"m"
# Orders for models are refused until a worker has told which models there are.
PATHS = [
    path
    for path, item in describe("1")["paths"].items()
    if "requestBody" in item.get("post", {}) and not path.startswith("/admin/")
]


@pytest.fixture(scope="module")
def app() -> Starlette:
    return make_app(RecordingWorker())[1]


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


async def refusal(app: Starlette, path: str, body: bytes) -> str:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"
    ) as client:
        headers = {"content-type": "application/json"}
        answer = await client.post(path.replace("{id}", "x"), content=body, headers=headers)
    assert answer.status_code == 400
    message: str = answer.json()["error"]["message"]
    return message


def test_the_endpoints_with_bodies_are_found() -> None:
    assert {"/v1/chat/completions", "/v1/responses", "/v1/conversations/{id}/items"} < {*PATHS}


@pytest.mark.parametrize("depth", [1500, 100_000])
@pytest.mark.parametrize("name", ["metadata", "tools", "input", "messages", "prompt", "zz"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_value_that_cannot_be_decoded_is_refused_by_its_field(
    app: Starlette, path: str, name: str, depth: int
) -> None:
    fields = b'"model":"%s","%s":{"a":%s}' % (MODEL, name.encode(), nested(depth))
    assert f"`{name}" in await refusal(app, path, b"{%s}" % fields)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"a":"x","b":%s,"c":1}', "b"),
        (b'{"a":{"b":[]},"c" : {"d":%s}', "c"),
        (b'{"a":"[[","\\u0062\\"":%s', 'b"'),
        (b'{"a":"\\\\","b":["}"],"c":%s', "c"),
        (b"%s", None),
        (b'["a",%s]', None),
        (b'{"a":[1,2],"b":"c"}', None),
        (b'{"\xff":%s}', None),
        (b'{"a":"%s', None),
        (b'{"a":"%s\\', None),
    ],
)
def test_the_field_that_is_nested_deepest_is_found(body: bytes, name: str | None) -> None:
    assert find_deepest(body.replace(b"%s", nested(500))) == name
    assert find_deepest(bytearray(body.replace(b"%s", b"[" * 2000))) == name


def test_of_several_deep_fields_the_deepest_is_found() -> None:
    assert find_deepest(b'{"a":%s,"b":%s,"c":%s}' % tuple(map(nested, (70, 900, 80)))) == "b"


def test_the_search_ends_where_it_would_take_long() -> None:
    body = b'{"a":"%s","b":%s}' % (b"\\n" * (MAX_SEARCHED_BYTES // 2), nested(500))
    assert find_deepest(body) is None
