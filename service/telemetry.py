"""OpenTelemetry: one span a request, where the settings ask for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal, TextIO

from starlette.types import ASGIApp

ShutDown = Callable[[], None]


def instrument(
    app: ASGIApp, mode: Literal["off", "console"], stream: TextIO = sys.stdout
) -> tuple[ASGIApp, ShutDown]:
    """`app` under OpenTelemetry's ASGI middleware, and what writes the last spans at the end.

    "off" is `app` itself, at no cost. "console" writes the spans to `stream`. The
    caller's `traceparent` is honoured.
    """
    if mode == "off":
        return app, lambda: None
    # Imported here: most starts need not spend the tenth of a second it takes.
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    provider = TracerProvider(resource=Resource({SERVICE_NAME: "mlxd"}))
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=stream)))
    # Without the exclusion it makes a span of every chunk of a stream (version 0.66b2).
    middleware = OpenTelemetryMiddleware(
        app, tracer_provider=provider, exclude_spans=["send", "receive"]
    )
    return middleware, provider.shutdown
