"""All that watches the service: telemetry, what the steps add up to, the latest requests."""

from __future__ import annotations

from collections.abc import Callable

from starlette.middleware import Middleware

from service.requestlog.access_log import AccessLog
from service.requestlog.recent import RecentRequests
from service.requestlog.record_middleware import Observer, RecordMiddleware
from service.supervision.supervisor import Supervisor
from service.telemetry.exporters import Exporters
from service.telemetry.providers import NAME, Telemetry
from service.telemetry.request_metrics import RequestMetrics
from service.telemetry.spans import Spans
from service.telemetry.step_stats import StepStats
from service.telemetry.worker_metrics import create_worker_metrics


class Observability:
    """Made before what it watches. Its parts are read by `/metrics` and `/status`."""

    def __init__(self, exporters: Exporters, version: str, *, record_content: bool) -> None:
        self.telemetry = Telemetry(exporters, version)
        self.step_stats = StepStats()
        self.recent = RecentRequests()
        self._meter = self.telemetry.meter_provider.get_meter(NAME, version)
        self._observers: list[Observer] = [AccessLog(), RequestMetrics(self._meter)]
        tracers = self.telemetry.tracer_provider
        if tracers is not None:
            self._observers.append(Spans(tracers.get_tracer(NAME, version)))
        # The last one: it lets go of what the others read.
        self._observers.append(self.recent)
        # Nobody would read it elsewhere.
        self._keeps_content = record_content and tracers is not None
        self._count_restarts: Callable[[], int] = lambda: 0

    def watch(self, supervisor: Supervisor) -> None:
        """Read the worker's state from here, whenever metrics are asked for."""
        self._count_restarts = lambda: supervisor.restarts
        create_worker_metrics(self._meter, supervisor, self.step_stats.totals)

    def middleware(self) -> Middleware:
        """What observes each request."""
        return Middleware(
            RecordMiddleware,
            self._observers,
            self.step_stats.add_first_token,
            self._count_restarts,
            keeps_content=self._keeps_content,
        )
