"""The exporters are set by OpenTelemetry's variables; unsupported values cause warnings."""

from __future__ import annotations

import pytest

from service.telemetry.exporters import Exporters, read_exporters

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def test_without_the_variables_nothing_is_exported() -> None:
    assert read_exporters({"PATH": "/bin"}) == Exporters()
    assert not read_exporters({}).any


def test_an_endpoint_exports_all_three_signals() -> None:
    exporters = read_exporters(ENDPOINT)
    assert exporters == Exporters(traces="otlp", metrics="otlp", logs="otlp")


def test_an_endpoint_of_one_signal_exports_only_that_one() -> None:
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}
    assert read_exporters(environ) == Exporters(traces="otlp")


def test_each_signal_can_be_turned_on_and_off_separately() -> None:
    off = {"OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "prometheus"}
    assert read_exporters(ENDPOINT | off) == Exporters(traces="otlp")
    assert read_exporters({"OTEL_TRACES_EXPORTER": "console"}) == Exporters(traces="console")
    assert read_exporters({"OTEL_METRICS_EXPORTER": "otlp"}) == Exporters(metrics="otlp")


@pytest.mark.parametrize("value", ["true", "TRUE", " True "])
def test_all_exports_can_be_disabled(value: str) -> None:
    assert read_exporters(ENDPOINT | {"OTEL_SDK_DISABLED": value}) == Exporters()


def test_an_empty_variable_counts_as_unset() -> None:
    assert read_exporters({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}) == Exporters()


def test_an_unsupported_protocol_causes_a_warning_and_no_export() -> None:
    exporters = read_exporters(ENDPOINT | {"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"})
    assert (exporters.traces, exporters.logs) == ("otlp", None)
    [warning] = exporters.warnings
    assert warning.startswith("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL: grpc")


def test_an_unknown_exporter_causes_a_warning_and_no_export() -> None:
    exporters = read_exporters(ENDPOINT | {"OTEL_TRACES_EXPORTER": "zip\x1bkin"})
    assert exporters.traces is None
    [warning] = exporters.warnings
    assert warning.startswith("OTEL_TRACES_EXPORTER: zip\\x1bkin is unknown")


@pytest.mark.parametrize(
    "secret",
    [
        {"OTEL_EXPORTER_OTLP_HEADERS": "a=b, Authorization=Bearer%20hunter2"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=hunter2"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "x%2Dapi%2Dk%65y=hunter2"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:hunter2@collector:4318"},
    ],
)
def test_a_key_is_not_sent_over_http_to_another_machine(secret: dict[str, str]) -> None:
    exporters = read_exporters(ENDPOINT | secret)
    assert not exporters.any
    assert len(exporters.warnings) == 3
    assert not any("hunter2" in warning for warning in exporters.warnings)


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "x-scope-orgid=tenant"},
    ],
)
def test_a_key_is_sent_over_https_or_on_this_machine(variables: dict[str, str]) -> None:
    key = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=hunter2"}
    exporters = read_exporters(ENDPOINT | key | variables)
    assert exporters == Exporters(traces="otlp", metrics="otlp", logs="otlp")


def test_the_headers_and_the_endpoint_of_one_signal_are_judged_together() -> None:
    own = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector:4318/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=hunter2",
    }
    assert read_exporters(ENDPOINT | own).warnings == ()
    own["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = "http://[collector"
    [warning] = read_exporters(own).warnings
    assert warning.startswith("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: it is not a URL")
