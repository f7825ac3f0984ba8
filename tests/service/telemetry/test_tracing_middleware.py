"""A request is one span of its caller's trace, and its stream passes unchanged."""

from __future__ import annotations

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from service.telemetry.tracing_middleware import TracingMiddleware

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
CHUNKS = [f"{number} ".encode() for number in range(50)]


async def stream(request: Request) -> StreamingResponse:
    return StreamingResponse(iter(CHUNKS))


async def trace_id(request: Request) -> Response:
    return Response(trace.format_trace_id(trace.get_current_span().get_span_context().trace_id))


class TracedApp:
    """A traced app, and its finished spans."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        paths = ("/trace", "/health", "/status", "/models/status")
        routes = [Route(path, trace_id) for path in paths]
        self.app = TracingMiddleware(
            Starlette(routes=[Route("/x", stream), *routes]), self.provider
        )

    async def get(self, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(path, headers={"traceparent": PARENT})


async def test_a_stream_is_one_span_and_complete() -> None:
    app = TracedApp()
    assert (await app.get("/x")).content == b"".join(CHUNKS)
    [span] = app.exporter.get_finished_spans()
    assert span.attributes is not None
    assert 200 in span.attributes.values()
    assert span.parent is not None
    assert span.parent.span_id == 0xB7AD6B7169203331


async def test_the_app_runs_in_the_trace_of_the_caller() -> None:
    assert (await TracedApp().get("/trace")).text == TRACE


@pytest.mark.parametrize("path", ["/health", "/status", "/status?after=1"])
async def test_a_polled_route_creates_no_span(path: str) -> None:
    app = TracedApp()
    assert (await app.get(path)).status_code == 200
    assert app.exporter.get_finished_spans() == ()


async def test_a_path_that_ends_like_a_polled_route_creates_a_span() -> None:
    app = TracedApp()
    assert (await app.get("/models/status")).status_code == 200
    assert len(app.exporter.get_finished_spans()) == 1
