"""Where traces, metrics and logs go, as OpenTelemetry's standard variables say.

A signal is exported where `OTEL_<SIGNAL>_EXPORTER` says so, or, that being unset, where an
OTLP endpoint is. `otlp` is OTLP over HTTP; everything else of it (endpoint, headers,
timeout, sampler, resource) is read by OpenTelemetry itself. With none of the variables set
nothing is exported. Source: OpenTelemetry's specification 1.50, environment variables: a
value that is not known is told, and ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

from service.errors import excerpt

Destination = Literal["otlp", "console"]
Signal = Literal["traces", "metrics", "logs"]

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
DISABLED = "OTEL_SDK_DISABLED"
HTTP_PROTOCOL = "http/protobuf"
# Prometheus reads /metrics, which is always there.
NOWHERE = ("none", "prometheus")


class Exporters(msgspec.Struct, frozen=True, kw_only=True):
    """Where each signal goes, None for nowhere; and what of the variables cannot be done."""

    traces: Destination | None = None
    metrics: Destination | None = None
    logs: Destination | None = None
    complaints: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """Whether anything is exported at all."""
        return bool(self.traces or self.metrics or self.logs)


def read_exporters(environ: Mapping[str, str]) -> Exporters:
    """What the variables ask for."""
    given = {name: text.strip() for name, text in environ.items() if text.strip()}
    if given.get(DISABLED, "").lower() == "true":
        return Exporters()
    complaints: list[str] = []
    destinations = {signal: _destination(signal, given, complaints) for signal in get_args(Signal)}
    return Exporters(**destinations, complaints=tuple(complaints))


def _destination(
    signal: Signal, given: Mapping[str, str], complaints: list[str]
) -> Destination | None:
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    endpoint = ENDPOINT in given or f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT" in given
    match given.get(variable, "otlp" if endpoint else "none").lower():
        case "otlp":
            return _otlp(signal, given, complaints)
        case "console":
            return "console"
        case other if other not in NOWHERE:
            told = f"{variable}: {excerpt(other, 100)} is unknown; {signal} are not exported"
            complaints.append(told)
    return None


def _otlp(signal: Signal, given: Mapping[str, str], complaints: list[str]) -> Destination | None:
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    variable = own if own in given else PROTOCOL
    protocol = given.get(variable, HTTP_PROTOCOL).lower()
    if protocol == HTTP_PROTOCOL:
        return "otlp"
    complaints.append(
        f"{variable}: {excerpt(protocol, 100)} is not spoken here, {HTTP_PROTOCOL} is; "
        f"{signal} are not exported"
    )
    return None
