"""The app is instrumented only where traces go somewhere, and the end is bounded."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette

from service.telemetry.exporters import Exporters
from service.telemetry.providers import COMPLAINT_EACH_S, RateLimitFilter, Telemetry


def test_without_a_destination_for_traces_the_app_is_itself() -> None:
    app = Starlette()
    telemetry = Telemetry(Exporters(), "1")
    assert telemetry.trace(app) is app
    telemetry.shut_down()


def test_an_exporter_that_does_not_end_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()
    telemetry = Telemetry(Exporters(traces="console"), "1")
    assert isinstance(telemetry.tracer_provider, TracerProvider)
    end = telemetry.tracer_provider.shutdown
    monkeypatch.setattr(telemetry.tracer_provider, "shutdown", lambda: release.wait(60) and end())
    began_at = time.monotonic()
    telemetry.shut_down(within_s=0.05)
    assert time.monotonic() - began_at < 30
    assert "could not be exported" in caplog.text
    release.set()


def complaint(created: float, level: int = logging.ERROR) -> logging.LogRecord:
    """A log record of an exporter."""
    return logging.makeLogRecord({"levelno": level, "created": created})


def test_a_collector_that_is_gone_is_complained_of_once_in_a_while() -> None:
    seldom = RateLimitFilter()
    assert seldom.filter(complaint(1000.0))
    assert not seldom.filter(complaint(1000.0 + COMPLAINT_EACH_S - 1))
    assert seldom.filter(complaint(1000.0 + COMPLAINT_EACH_S))


def test_attempts_that_are_repeated_are_not_complained_of() -> None:
    assert not RateLimitFilter().filter(complaint(1000.0, logging.WARNING))
