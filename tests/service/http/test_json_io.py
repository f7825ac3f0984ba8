from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from service.errors import ClientDisconnected, InvalidRequest
from service.http.body_budget import SMALL_BODY_BYTES
from service.http.decoding import DecodingRules
from service.http.json_io import (
    MAX_BRACKETS,
    PART_BYTES,
    JsonBodies,
    estimate_decoded_bytes,
)
from service.schema.chat import ChatRequest

LARGE_BYTES = SMALL_BODY_BYTES + 1

pytestmark = pytest.mark.anyio

BODIES = JsonBodies(DecodingRules("refuse"))
# A wide text's header is larger than an empty one's.
TEXT_OVERHEAD_BYTES = 32


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


@pytest.mark.parametrize("padding", range(6))
@pytest.mark.parametrize("wide", ["—", "🐳", "\\u2014", "\\ud83d\\udc33"])
def test_the_estimate_finds_a_wide_character_wherever_the_body_is_parted(
    wide: str, padding: int
) -> None:
    body = b"x" * (PART_BYTES - padding) + wide.encode() + b"x" * PART_BYTES
    is_pair = wide in ("🐳", "\\ud83d\\udc33")
    assert estimate_decoded_bytes(body) == len(body) * (4 if is_pair else 2)


@pytest.mark.parametrize("bracket", ["[", "{"])
async def test_a_large_body_with_too_many_brackets_is_refused(bracket: str) -> None:
    estimate_decoded_bytes(bracket.encode() * MAX_BRACKETS)
    body = chat("x" * LARGE_BYTES + bracket * MAX_BRACKETS)
    with pytest.raises(InvalidRequest):
        await BODIES.read(request_with(body), ChatRequest)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40)), st.booleans())
def test_the_estimate_is_at_least_what_the_texts_take(texts: list[str], escaped: bool) -> None:
    body = json.dumps(texts, ensure_ascii=escaped).encode()
    characters = sum(sys.getsizeof(text) - sys.getsizeof("") for text in texts)
    assert estimate_decoded_bytes(body) + TEXT_OVERHEAD_BYTES * (len(texts) + 1) >= characters


def test_the_estimate_counts_numbers_and_wide_characters() -> None:
    assert estimate_decoded_bytes(b"x" * 1000) == 1000
    assert estimate_decoded_bytes(("x" * 1000 + "é").encode()) == 1002
    assert estimate_decoded_bytes(("x" * 1000 + "—").encode()) == 2 * 1003
    assert estimate_decoded_bytes(("x" * 1000 + "🐳").encode()) == 4 * 1004
    numbers = json.dumps(list(range(1000, 3000))).encode()
    assert estimate_decoded_bytes(numbers) > sum(map(sys.getsizeof, range(1000, 3000)))
