"""OpenTelemetry's variables say what is exported; what of them cannot be done is told."""

from __future__ import annotations

import pytest

from service.telemetry.exporters import Exporters, read_exporters

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def test_with_none_of_them_nothing_is_exported() -> None:
    assert read_exporters({"PATH": "/bin"}) == Exporters()
    assert not read_exporters({}).any


def test_an_endpoint_is_for_all_three_signals() -> None:
    exporters = read_exporters(ENDPOINT)
    assert exporters == Exporters(traces="otlp", metrics="otlp", logs="otlp")


def test_an_endpoint_of_one_signal_is_for_that_one() -> None:
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}
    assert read_exporters(environ) == Exporters(traces="otlp")


def test_each_signal_can_be_turned_off_and_on_by_itself() -> None:
    off = {"OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "prometheus"}
    assert read_exporters(ENDPOINT | off) == Exporters(traces="otlp")
    assert read_exporters({"OTEL_TRACES_EXPORTER": "console"}) == Exporters(traces="console")
    assert read_exporters({"OTEL_METRICS_EXPORTER": "otlp"}) == Exporters(metrics="otlp")


@pytest.mark.parametrize("value", ["true", "TRUE", " True "])
def test_all_of_it_can_be_disabled(value: str) -> None:
    assert read_exporters(ENDPOINT | {"OTEL_SDK_DISABLED": value}) == Exporters()


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    assert read_exporters({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}) == Exporters()


def test_a_protocol_that_is_not_spoken_is_told_and_nothing_goes_there() -> None:
    exporters = read_exporters(ENDPOINT | {"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"})
    assert (exporters.traces, exporters.logs) == ("otlp", None)
    [complaint] = exporters.complaints
    assert complaint.startswith("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL: grpc")


def test_an_exporter_that_is_unknown_is_told_and_ignored() -> None:
    exporters = read_exporters(ENDPOINT | {"OTEL_TRACES_EXPORTER": "zip\x1bkin"})
    assert exporters.traces is None
    [complaint] = exporters.complaints
    assert complaint.startswith("OTEL_TRACES_EXPORTER: zip\\x1bkin is unknown")
