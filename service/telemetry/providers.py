"""OpenTelemetry's SDK: set up from what is to be exported where, and ended within a bound.

Exporting is done by threads of the SDK that nothing here waits for: a collector that is
gone or does not answer costs no request anything. What does not fit their queues is lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.types import ASGIApp

from service.telemetry.exporters import Destination, Exporters

logger = logging.getLogger(__name__)

NAME = "mlxd"
SHUTDOWN_S = 3.0
# Who complains of a collector, each time it fails.
EXPORTER_LOGGERS = tuple(
    f"opentelemetry.exporter.otlp.proto.http.{name}"
    for name in ("trace_exporter", "metric_exporter", "_log_exporter")
)
COMPLAINT_EACH_S = 60.0


class Telemetry:
    """The providers. `registry` is what Prometheus reads; `tracer_provider` None traces nothing."""

    def __init__(self, exporters: Exporters, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = Resource({SERVICE_NAME: NAME, SERVICE_VERSION: version})
        self._resource = own.merge(OTELResourceDetector().detect())
        self.meter_provider = self._make_meters(exporters.metrics)
        self.tracer_provider = self._make_tracers(exporters.traces) if exporters.traces else None
        self._end_logs = self._export_logs(exporters.logs) if exporters.logs else None
        for name in EXPORTER_LOGGERS:
            logging.getLogger(name).addFilter(RateLimitFilter())
        for complaint in exporters.complaints:
            logger.warning("%s", complaint)

    def trace(self, app: ASGIApp) -> ASGIApp:
        """`app` with a span for each request, which continues its caller's `traceparent`.

        Without a destination for traces it is `app` itself.
        """
        if self.tracer_provider is None:
            return app
        from service.telemetry.tracing_middleware import TracingMiddleware

        return TracingMiddleware(app, self.tracer_provider)

    def shut_down(self, within_s: float = SHUTDOWN_S) -> None:
        """Export what is left; what takes longer than `within_s` is lost."""
        ends: list[Callable[[], object]] = [self.meter_provider.shutdown]
        if self.tracer_provider is not None:
            ends.append(self.tracer_provider.shutdown)
        if self._end_logs is not None:
            ends.append(self._end_logs)
        threads = [threading.Thread(target=end, daemon=True) for end in ends]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + within_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            logger.warning("telemetry could not be exported within %g s, and is lost", within_s)

    def _make_meters(self, destination: Destination | None) -> MeterProvider:
        readers: list[MetricReader] = [
            PrometheusMetricReader(scope_info_enabled=False, registry=self.registry)
        ]
        if destination is not None:
            from opentelemetry.sdk.metrics.export import (
                ConsoleMetricExporter,
                PeriodicExportingMetricReader,
            )

            if destination == "otlp":
                from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
                    OTLPMetricExporter,
                )

                readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
            else:
                readers.append(PeriodicExportingMetricReader(ConsoleMetricExporter()))
        return MeterProvider(readers, self._resource, shutdown_on_exit=False)

    def _make_tracers(self, destination: Destination) -> TracerProvider:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        if destination == "otlp":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        else:
            provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
        return provider

    def _export_logs(self, destination: Destination) -> Callable[[], None]:
        """Export all that is logged from now on; what ends it."""
        from opentelemetry.instrumentation.logging.handler import LoggingHandler
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, ConsoleLogRecordExporter

        provider = LoggerProvider(self._resource, shutdown_on_exit=False)
        if destination == "otlp":
            from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

            provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
        else:
            provider.add_log_record_processor(BatchLogRecordProcessor(ConsoleLogRecordExporter()))
        handler = LoggingHandler(logger_provider=provider)
        # That logs cannot be exported would itself be a log to export.
        handler.addFilter(lambda record: record.name not in EXPORTER_LOGGERS)
        logging.getLogger().addHandler(handler)

        def end() -> None:
            logging.getLogger().removeHandler(handler)
            provider.shutdown()

        return end


class RateLimitFilter(logging.Filter):
    """Lets an error through once in `COMPLAINT_EACH_S`, and of lesser things nothing.

    That a collector is gone need not be told at each attempt.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next_at = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR or record.created < self._next_at:
            return False
        self._next_at = record.created + COMPLAINT_EACH_S
        return True
