"""A request is one span that continues its caller's trace; without telemetry nothing is added."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from service.telemetry import instrument

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def stream(request: Request) -> StreamingResponse:
    return StreamingResponse(iter([b"a"] * 50))


async def spans_of_one_request() -> list[dict[str, Any]]:
    written = io.StringIO()
    app, shut_down = instrument(Starlette(routes=[Route("/x", stream)]), "console", written)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        await client.get("/x", headers={"traceparent": PARENT})
    shut_down()
    decoder, text, spans = json.JSONDecoder(), written.getvalue().strip(), []
    while text:
        span, end = decoder.raw_decode(text)
        spans.append(span)
        text = text[end:].strip()
    return spans


async def test_a_request_is_one_span_of_the_callers_trace_however_many_chunks_it_streams() -> None:
    [span] = await spans_of_one_request()
    assert span["context"]["trace_id"] == f"0x{TRACE}"
    assert span["parent_id"] == "0xb7ad6b7169203331"
    assert span["resource"]["attributes"]["service.name"] == "mlxd"


async def test_without_telemetry_the_app_is_itself() -> None:
    app = Starlette()
    assert instrument(app, "off")[0] is app
