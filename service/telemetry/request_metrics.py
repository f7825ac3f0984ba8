"""The metrics that are recorded once per request, at its end.

Names, units and buckets of `gen_ai.*` and `http.*` are those of OpenTelemetry's semantic
conventions; `gen_ai.*` as in its package 0.66b2. `mlxd.*` are this service's own metrics.
"""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.metrics import Histogram, Meter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.metrics.http_metrics import HTTP_SERVER_REQUEST_DURATION

from service.requestlog.record import RequestRecord

PROVIDER = "mlxd"

Attributes = dict[str, str | int]

HTTP_METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")
OTHER_METHOD = "_OTHER"

# Bucket boundaries that the conventions recommend, in seconds and in tokens.
HTTP_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
DURATION_S = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
EACH_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = (
    1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
)  # fmt: skip


class RequestMetrics:
    """Records each request that ends, with instruments of `meter`."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._http = self._histogram(
            HTTP_SERVER_REQUEST_DURATION, "s", "Duration of HTTP requests.", HTTP_S
        )
        self._operation = self._histogram(
            gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION,
            "s",
            "Duration of generations, including failed ones.",
            DURATION_S,
        )
        self._duration = self._histogram(
            gen_ai_metrics.GEN_AI_SERVER_REQUEST_DURATION,
            "s",
            "Time from the request to its last token.",
            DURATION_S,
        )
        self._first_token = self._histogram(
            gen_ai_metrics.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN,
            "s",
            "Time from the request to its first token.",
            FIRST_TOKEN_S,
        )
        self._each_token = self._histogram(
            gen_ai_metrics.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN,
            "s",
            "Mean time per token after the first one.",
            EACH_TOKEN_S,
        )
        self._usage = self._histogram(
            gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE,
            "{token}",
            "Input and output tokens of a generation.",
            TOKENS,
        )
        self._queue = self._histogram(
            "mlxd.request.queue.duration",
            "s",
            "Time that a request waited for the device.",
            DURATION_S,
        )
        self._prefill = self._histogram(
            "mlxd.request.prefill.duration", "s", "Time of the prefill of a request.", DURATION_S
        )
        self._prompt = meter.create_counter(
            "mlxd.prompt.tokens", "{token}", "Prompt tokens of successful requests."
        )
        self._cached = meter.create_counter(
            "mlxd.prompt.cached_tokens",
            "{token}",
            "Prompt tokens of successful requests found in the prompt cache.",
        )

    def observe(self, record: RequestRecord) -> None:
        """Record a request that has ended."""
        self._http.record(record.duration_s, http_attributes(record))
        if record.model is None:
            return
        attributes = generation_attributes(record)
        if record.error_code is not None:
            self._operation.record(record.duration_s, {**attributes, ERROR_TYPE: record.error_code})
            self._duration.record(record.duration_s, {**attributes, ERROR_TYPE: record.error_code})
            return
        self._operation.record(record.duration_s, attributes)
        self._duration.record(record.duration_s, attributes)
        self._observe_success(record, attributes)

    def _observe_success(self, record: RequestRecord, attributes: Attributes) -> None:
        if record.first_token_s is not None:
            self._first_token.record(record.first_token_s, attributes)
        if record.each_token_s is not None:
            self._each_token.record(record.each_token_s, attributes)
        self._usage.record(record.prompt_tokens, {**attributes, gen_ai.GEN_AI_TOKEN_TYPE: "input"})
        self._usage.record(
            record.completion_tokens, {**attributes, gen_ai.GEN_AI_TOKEN_TYPE: "output"}
        )
        self._queue.record(record.queue_s, attributes)
        self._prefill.record(record.prefill_s, attributes)
        self._prompt.add(record.prompt_tokens, attributes)
        self._cached.add(record.cached_tokens, attributes)

    def _histogram(
        self, name: str, unit: str, description: str, bounds: Iterable[float]
    ) -> Histogram:
        return self._meter.create_histogram(
            name, unit, description, explicit_bucket_boundaries_advisory=list(bounds)
        )


def http_attributes(record: RequestRecord) -> Attributes:
    """The attributes of an HTTP request; a client cannot add new values."""
    known = record.method in HTTP_METHODS
    attributes: Attributes = {
        HTTP_REQUEST_METHOD: record.method if known else OTHER_METHOD,
        HTTP_RESPONSE_STATUS_CODE: record.status,
    }
    if record.route is not None:
        attributes[HTTP_ROUTE] = record.route
    return attributes


def generation_attributes(record: RequestRecord) -> Attributes:
    """The attributes of a generation; its model is a configured one."""
    return {
        gen_ai.GEN_AI_OPERATION_NAME: record.operation,
        gen_ai.GEN_AI_PROVIDER_NAME: PROVIDER,
        gen_ai.GEN_AI_REQUEST_MODEL: record.model or "",
        gen_ai.GEN_AI_RESPONSE_MODEL: record.model or "",
    }
