"""Sets up all observation of the service: telemetry, step statistics, the latest requests."""

from __future__ import annotations

from collections.abc import Callable

from starlette.middleware import Middleware

from service.requestlog.access_log import AccessLog
from service.requestlog.recent import RecentRequests
from service.requestlog.record_middleware import Observer, RecordMiddleware
from service.store.index import StoreIndex
from service.supervision.supervisor import Supervisor
from service.telemetry.exporters import Exporters
from service.telemetry.providers import NAME, Telemetry
from service.telemetry.request_metrics import RequestMetrics
from service.telemetry.spans import Spans
from service.telemetry.step_stats import StepStats
from service.telemetry.store_metrics import create_store_metrics
from service.telemetry.worker_metrics import create_worker_metrics


class Observability:
    """Telemetry, step statistics and recent requests; read by `/metrics` and `/status`."""

    def __init__(
        self, exporters: Exporters, version: str, *, record_content: bool, instance: str = ""
    ) -> None:
        self.telemetry = Telemetry(exporters, version, instance)
        self.step_stats = StepStats()
        self.recent = RecentRequests()
        self._meter = self.telemetry.meter_provider.get_meter(NAME, version)
        self._observers: list[Observer] = [AccessLog(), RequestMetrics(self._meter)]
        tracer_provider = self.telemetry.tracer_provider
        if tracer_provider is not None:
            self._observers.append(Spans(tracer_provider.get_tracer(NAME, version)))
        # The last one, because it removes the content that the others read.
        self._observers.append(self.recent)
        # Only spans contain content.
        self._keeps_content = record_content and tracer_provider is not None
        self._count_restarts: Callable[[], int] = lambda: 0

    def watch(self, supervisor: Supervisor, store: StoreIndex) -> None:
        """Set the supervisor whose worker, and the store whose size the metrics read."""
        self._count_restarts = lambda: supervisor.restarts
        create_worker_metrics(self._meter, supervisor, self.step_stats.totals)
        create_store_metrics(self._meter, store)

    def middleware(self) -> Middleware:
        """The middleware that passes a record of each request to the observers."""
        return Middleware(
            RecordMiddleware,
            self._observers,
            on_first_token=self.step_stats.add_first_token,
            count_restarts=self._count_restarts,
            keeps_content=self._keeps_content,
        )
