"""GET /metrics: the metrics for Prometheus."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response


class MetricsEndpoint:
    """Renders the current values of the metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def get(self, request: Request) -> Response:
        """Prometheus' text format, or OpenMetrics if the `accept` header prefers it."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        # Encoding takes milliseconds; in a thread it does not delay the streams.
        body = await asyncio.to_thread(encode, self._registry)
        return Response(body, headers={"content-type": media_type})
