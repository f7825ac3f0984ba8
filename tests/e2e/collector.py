"""An OTLP/HTTP collector that stores what it receives, or one that accepts and never answers."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(ThreadingHTTPServer):
    """What has come, by path; all that is in it can be read once its sender has ended."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Intake)
        self.bodies: list[tuple[str, bytes]] = []

    @property
    def environ(self) -> dict[str, str]:
        """The variable that sends everything here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server_port}"}

    @property
    def raw(self) -> bytes:
        """All bytes."""
        return b"".join(body for _, body in self.bodies)

    def spans(self) -> dict[str, Span]:
        """Every span by its name; two of one name are an error."""
        found: dict[str, Span] = {}
        for body in self._of("/v1/traces"):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        assert span.name not in found
                        found[span.name] = span
        return found

    def metrics(self) -> set[str]:
        """The names of all metrics."""
        return {
            metric.name
            for body in self._of("/v1/metrics")
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def logs(self) -> list[LogRecord]:
        """All log records."""
        return [
            record
            for body in self._of("/v1/logs")
            for resource in ExportLogsServiceRequest.FromString(body).resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def _of(self, path: str) -> list[bytes]:
        return [body for at, body in self.bodies if at == path]


class Intake(BaseHTTPRequestHandler):
    """Takes one export."""

    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.bodies.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


@contextmanager
def silent() -> Iterator[dict[str, str]]:
    """The variable that sends everything to a port that takes it and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}


def attributes(of: Span | LogRecord) -> dict[str, Any]:
    """Attributes as plain values."""
    return {pair.key: plain(pair.value) for pair in of.attributes}


def plain(value: AnyValue) -> Any:
    """One value."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    return None if kind is None else getattr(value, kind)
