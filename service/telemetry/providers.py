"""The providers of OpenTelemetry's SDK: set up for the exporters, and shut down in bounded time.

Threads of the SDK do the exporting, and no request waits for them: a collector that is down
or does not respond delays no request. Data that does not fit their queues is lost.
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
    SERVICE_INSTANCE_ID,
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
# These log an error at each failed export.
EXPORTER_LOGGERS = tuple(
    f"opentelemetry.exporter.otlp.proto.http.{name}"
    for name in ("trace_exporter", "metric_exporter", "_log_exporter")
)
ERROR_INTERVAL_S = 60.0
# OpenTelemetry (1.45) logs a header of the environment that it cannot parse.
HEADER_LOGGER = "opentelemetry.util.re"


class Telemetry:
    """The providers. Prometheus reads `registry`; `tracer_provider` is None without traces.

    `instance` names this service among several; OpenTelemetry's own variables override it.
    """

    def __init__(self, exporters: Exporters, version: str, instance: str = "") -> None:
        logging.getLogger(HEADER_LOGGER).addFilter(conceal_header)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = {SERVICE_NAME: NAME, SERVICE_VERSION: version}
        if instance:
            own[SERVICE_INSTANCE_ID] = instance
        self._resource = Resource(own).merge(OTELResourceDetector().detect())
        self.meter_provider = self._make_meter_provider(exporters.metrics)
        self.tracer_provider = (
            self._make_tracer_provider(exporters.traces) if exporters.traces else None
        )
        self._shut_down_logs = self._export_logs(exporters.logs) if exporters.logs else None
        for name in EXPORTER_LOGGERS:
            logging.getLogger(name).addFilter(RateLimitFilter())
        for warning in exporters.warnings:
            logger.warning("%s", warning)

    def trace(self, app: ASGIApp) -> ASGIApp:
        """`app` with a span for each request, a child of the span in `traceparent`.

        Without an exporter of traces this is `app` itself.
        """
        if self.tracer_provider is None:
            return app
        from service.telemetry.tracing_middleware import TracingMiddleware

        return TracingMiddleware(app, self.tracer_provider)

    def shut_down(self, timeout_s: float = SHUTDOWN_S) -> None:
        """Export the remaining data; what is not exported within `timeout_s` is lost."""
        shutdowns: list[Callable[[], object]] = [self.meter_provider.shutdown]
        if self.tracer_provider is not None:
            shutdowns.append(self.tracer_provider.shutdown)
        if self._shut_down_logs is not None:
            shutdowns.append(self._shut_down_logs)
        threads = [threading.Thread(target=target, daemon=True) for target in shutdowns]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            logger.warning("telemetry could not be exported within %g s and is lost", timeout_s)

    def _make_meter_provider(self, destination: Destination | None) -> MeterProvider:
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

    def _make_tracer_provider(self, destination: Destination) -> TracerProvider:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        if destination == "otlp":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        else:
            provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
        return provider

    def _export_logs(self, destination: Destination) -> Callable[[], None]:
        """Export all logs from now on; returns a function that stops it."""
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
        # An error about the export of logs must not be exported itself.
        handler.addFilter(lambda record: record.name not in EXPORTER_LOGGERS)
        logging.getLogger().addHandler(handler)

        def shut_down() -> None:
            logging.getLogger().removeHandler(handler)
            provider.shutdown()

        return shut_down


def conceal_header(record: logging.LogRecord) -> bool:
    """Pass the record without the header that it quotes, which may have a key."""
    if record.args:
        record.args = ("(it is not shown, because it may contain a key)",)
    return True


class RateLimitFilter(logging.Filter):
    """Passes one error per `ERROR_INTERVAL_S`, and no record of a lower level.

    It avoids an error at each attempt to export while a collector is down.
    """

    def __init__(self) -> None:
        super().__init__()
        self._blocked_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR or record.created < self._blocked_until:
            return False
        self._blocked_until = record.created + ERROR_INTERVAL_S
        return True
