from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request

from service.errors import ClientDisconnected, InvalidRequest
from service.http.body_budget import SMALL_BODY_BYTES
from service.http.body_values import MAX_VALUES
from service.http.decoding import DecodingRules
from service.http.json_io import JsonBodies
from service.schema.chat import ChatRequest

LARGE_BYTES = SMALL_BODY_BYTES + 1

pytestmark = pytest.mark.anyio

BODIES = JsonBodies(DecodingRules("refuse"))


class FakeReader:
    """A request reader with a complete body."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.size = len(body)
        self.has_left = False

    def check_connected(self) -> None:
        if self.has_left:
            raise ClientDisconnected("left")

    async def body(self) -> bytes:
        return self._body

    async def reserve(self, nbytes: int) -> None:
        assert nbytes > len(self._body)

    def discard_body(self) -> None:
        self._body = b""


def request_with(body: bytes) -> Request:
    headers = [(b"content-type", b"application/json")]
    return Request(
        {"type": "http", "headers": headers, "state": {"request_reader": FakeReader(body)}}
    )


def chat(text: str, **more: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": "m", "messages": messages, **more}).encode()


@pytest.mark.parametrize("size", [1, LARGE_BYTES])
async def test_a_body_becomes_a_request_whatever_its_size(size: int) -> None:
    request = await BODIES.read(request_with(chat("x" * size)), ChatRequest)
    assert request.messages[0].content == "x" * size


@pytest.mark.parametrize("size", [1, LARGE_BYTES])
async def test_an_invalid_body_is_refused_whatever_its_size(size: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await BODIES.read(request_with(chat("x" * size, n=0)), ChatRequest)
    assert caught.value.param == "n"


async def test_other_tasks_run_while_a_large_body_is_decoded() -> None:
    body = request_with(chat("x" * LARGE_BYTES))
    reading = asyncio.create_task(BODIES.read(body, ChatRequest))
    await asyncio.sleep(0)
    assert not reading.done()
    await reading


async def test_a_large_body_whose_client_has_left_is_not_decoded() -> None:
    request = request_with(chat("x" * LARGE_BYTES, n=0))
    request.state.request_reader.has_left = True
    with pytest.raises(ClientDisconnected):
        await BODIES.read(request, ChatRequest)


async def test_a_large_body_with_too_many_values_is_refused() -> None:
    body = chat("x" * LARGE_BYTES, stop=[[]] * MAX_VALUES)
    with pytest.raises(InvalidRequest, match="values"):
        await BODIES.read(request_with(body), ChatRequest)
