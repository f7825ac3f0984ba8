"""The app under OpenTelemetry's ASGI middleware, at no cost to the chunks of a stream."""

from __future__ import annotations

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import TracerProvider
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What is polled, and would fill the traces.
UNTRACED = "/health$,/metrics$,/status$,/assets/"
STATE = "untraced_send"


class TracingMiddleware:
    """ASGI middleware that makes a span of each request, which continues its `traceparent`.

    OpenTelemetry's own (0.66b2) would make a span of every chunk; told not to, it still
    looks at each for 6 microseconds. The chunks of a stream go past it here: of a response
    it sees the beginning and the end.
    """

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self.app = app
        self._traced: ASGIApp = OpenTelemetryMiddleware(
            self._serve,
            excluded_urls=UNTRACED,
            tracer_provider=provider,
            meter_provider=NoOpMeterProvider(),
            exclude_spans=["send", "receive"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[STATE] = send
        await self._traced(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, traced_send: Send) -> None:
        plain_send: Send = scope["state"].pop(STATE)

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body" and message.get("more_body", False):
                await plain_send(message)
            else:
                await traced_send(message)

        await self.app(scope, receive, send)
