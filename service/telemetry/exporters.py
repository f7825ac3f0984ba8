"""The exporters of traces, metrics and logs, from OpenTelemetry's standard variables.

A signal is exported if `OTEL_<SIGNAL>_EXPORTER` is set to an exporter or, where that is
unset, if an OTLP endpoint is set. `otlp` is OTLP over HTTP; all other variables (endpoint,
headers, timeout, sampler, resource) are read by OpenTelemetry itself. If none of the
variables is set, nothing is exported. Source: OpenTelemetry's specification 1.50,
environment variables: an unknown value is reported and ignored.

A signal whose headers or endpoint have a key or a password is not exported over http to another
machine, because others could read the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args
from urllib.parse import unquote

import msgspec

from service.config.secrets import has_secret, names_secret
from service.errors import excerpt
from service.security.addresses import is_sent_openly

Destination = Literal["otlp", "console"]
Signal = Literal["traces", "metrics", "logs"]

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
DISABLED = "OTEL_SDK_DISABLED"
HTTP_PROTOCOL = "http/protobuf"
# Prometheus reads /metrics, which is always served.
NO_EXPORT = ("none", "prometheus")


class Exporters(msgspec.Struct, frozen=True, kw_only=True):
    """The exporter of each signal, None for none, and warnings about unsupported values."""

    traces: Destination | None = None
    metrics: Destination | None = None
    logs: Destination | None = None
    warnings: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """Whether any signal is exported."""
        return bool(self.traces or self.metrics or self.logs)


def read_exporters(environ: Mapping[str, str]) -> Exporters:
    """Read the variables."""
    variables = {name: text.strip() for name, text in environ.items() if text.strip()}
    if variables.get(DISABLED, "").lower() == "true":
        return Exporters()
    warnings: list[str] = []
    destinations = {
        signal: _destination(signal, variables, warnings) for signal in get_args(Signal)
    }
    return Exporters(**destinations, warnings=tuple(warnings))


def _destination(
    signal: Signal, variables: Mapping[str, str], warnings: list[str]
) -> Destination | None:
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    endpoint = ENDPOINT in variables or f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT" in variables
    match variables.get(variable, "otlp" if endpoint else "none").lower():
        case "otlp":
            return _otlp(signal, variables, warnings)
        case "console":
            return "console"
        case other if other not in NO_EXPORT:
            warnings.append(
                f"{variable}: {excerpt(other, 100)} is unknown; {signal} are not exported"
            )
    return None


def _otlp(signal: Signal, variables: Mapping[str, str], warnings: list[str]) -> Destination | None:
    variable = _variable_for(signal, PROTOCOL, variables)
    protocol = variables.get(variable, HTTP_PROTOCOL).lower()
    if protocol != HTTP_PROTOCOL:
        warnings.append(
            f"{variable}: {excerpt(protocol, 100)} is not supported, only {HTTP_PROTOCOL} is; "
            f"{signal} are not exported"
        )
        return None
    if (reason := _refuse_open_key(signal, variables)) is not None:
        warnings.append(f"{reason}; {signal} are not exported")
        return None
    return "otlp"


def _refuse_open_key(signal: Signal, variables: Mapping[str, str]) -> str | None:
    """Why the signal must not be exported: its key would leave the machine unencrypted."""
    variable = _variable_for(signal, ENDPOINT, variables)
    endpoint = variables.get(variable, "")
    headers = variables.get(_variable_for(signal, HEADERS, variables), "")
    try:
        is_open = is_sent_openly(endpoint)
    except ValueError:
        return f"{variable}: it is not a URL"
    if is_open and (has_secret(endpoint) or any(map(names_secret, _names(headers)))):
        return f"{variable}: a key is not sent over http to another machine"
    return None


def _names(headers: str) -> list[str]:
    """The names in `name=value,name=value`; OpenTelemetry decodes them, and ignores other forms."""
    return [unquote(pair.partition("=")[0]) for pair in headers.split(",")]


def _variable_for(signal: Signal, common: str, variables: Mapping[str, str]) -> str:
    """The variable of the signal if it is set, else that of all signals."""
    own = common.replace("_OTLP_", f"_OTLP_{signal.upper()}_")
    return own if own in variables else common
