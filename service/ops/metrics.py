"""GET /metrics: the metrics as Prometheus reads them."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response


class MetricsEndpoint:
    """Renders what the instruments hold now."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def get(self, request: Request) -> Response:
        """Prometheus' text format, or OpenMetrics where that is asked for."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        # It takes milliseconds, which the streams need not wait for.
        body = await asyncio.to_thread(encode, self._registry)
        return Response(body, headers={"content-type": media_type})
