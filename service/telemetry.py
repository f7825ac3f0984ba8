"""OpenTelemetry: one span a request, where the settings ask for it."""

from __future__ import annotations

from typing import Literal

from starlette.types import ASGIApp


def instrument(app: ASGIApp, mode: Literal["off", "console"]) -> ASGIApp:
    """`app` under OpenTelemetry's ASGI middleware; `app` itself when tracing is off.

    "console" writes the spans to standard output. The caller's `traceparent` is honoured.
    """
    if mode == "off":
        return app
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    provider = TracerProvider(resource=Resource({SERVICE_NAME: "mlxd"}))
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    # Without this it makes a span of every chunk of a stream (version 0.66b2).
    return OpenTelemetryMiddleware(app, tracer_provider=provider, exclude_spans=["send", "receive"])
