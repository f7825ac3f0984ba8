"""The app is traced only if traces are exported, and the shutdown is bounded."""

from __future__ import annotations

import logging
import threading

import pytest
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette

from service.telemetry.exporters import Exporters
from service.telemetry.providers import ERROR_INTERVAL_S, RateLimitFilter, Telemetry
from tests.waiting import HANG_S


def test_without_an_exporter_of_traces_the_app_is_unchanged() -> None:
    app = Starlette()
    telemetry = Telemetry(Exporters(), "1")
    assert telemetry.trace(app) is app
    telemetry.shut_down()


@pytest.mark.parametrize(("tag", "instances"), [("", []), ("a", ["a"])])
def test_the_metrics_name_the_replica(tag: str, instances: list[str]) -> None:
    telemetry = Telemetry(Exporters(), "1", tag)
    telemetry.meter_provider.get_meter("tests").create_counter("tests").add(1)
    samples = [sample for metric in telemetry.registry.collect() for sample in metric.samples]
    (info,) = [sample for sample in samples if sample.name == "target_info"]
    assert [v for k, v in info.labels.items() if k == "service_instance_id"] == instances
    telemetry.shut_down()


def test_the_shutdown_does_not_wait_for_an_exporter_that_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release, released = threading.Event(), threading.Event()
    telemetry = Telemetry(Exporters(traces="console"), "1")
    assert isinstance(telemetry.tracer_provider, TracerProvider)
    shutdown = telemetry.tracer_provider.shutdown

    def hang() -> None:
        release.wait()
        shutdown()
        released.set()

    monkeypatch.setattr(telemetry.tracer_provider, "shutdown", hang)
    telemetry.shut_down(timeout_s=0.05)
    assert "could not be exported" in caplog.text
    release.set()
    assert released.wait(HANG_S)


def export_record(created: float, level: int = logging.ERROR) -> logging.LogRecord:
    """A log record of an exporter."""
    return logging.makeLogRecord({"levelno": level, "created": created})


def test_errors_about_a_collector_are_logged_once_per_interval() -> None:
    rate_limit = RateLimitFilter()
    assert rate_limit.filter(export_record(1000.0))
    assert not rate_limit.filter(export_record(1000.0 + ERROR_INTERVAL_S - 1))
    assert rate_limit.filter(export_record(1000.0 + ERROR_INTERVAL_S))


def test_warnings_about_a_collector_are_not_logged() -> None:
    assert not RateLimitFilter().filter(export_record(1000.0, logging.WARNING))


def test_a_header_that_cannot_be_parsed_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization: Bearer hunter2")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    telemetry = Telemetry(Exporters(traces="otlp"), "1")
    telemetry.shut_down()
    assert "Header format invalid" in caplog.text
    assert "hunter2" not in caplog.text
