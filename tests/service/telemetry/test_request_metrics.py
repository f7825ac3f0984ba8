"""The metrics count each request once, and a client cannot create new series."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)

from service.errors import Overloaded
from service.requestlog.record import RequestRecord
from service.telemetry.request_metrics import RequestMetrics
from tests.service.records import chat_submit, finished_record, scope

Point = HistogramDataPoint | NumberDataPoint


class Metrics:
    """The metrics of requests, and their current values."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.recorder = RequestMetrics(self.provider.get_meter("test"))

    def points(self) -> dict[str, list[Point]]:
        data = self._reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)  # type: ignore[arg-type]
            for resource in (data.resource_metrics if data else [])
            for scope_metrics in resource.scope_metrics
            for metric in scope_metrics.metrics
        }


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics()
    yield metrics
    metrics.provider.shutdown()


def sum_of(points: list[Point]) -> float:
    return sum(p.sum if isinstance(p, HistogramDataPoint) else p.value for p in points)


def test_a_successful_generation_is_recorded_in_every_metric_of_generations(
    metrics: Metrics,
) -> None:
    record = finished_record()
    metrics.recorder.observe(record)
    points = metrics.points()
    assert sum_of(points["gen_ai.client.token.usage"]) == 16
    assert sum_of(points["gen_ai.server.request.duration"]) == record.duration_s
    assert sum_of(points["gen_ai.server.time_to_first_token"]) == record.first_token_s
    assert sum_of(points["gen_ai.server.time_per_output_token"]) == record.each_token_s
    assert sum_of(points["mlxd.request.queue.duration"]) == pytest.approx(0.01)
    assert sum_of(points["mlxd.prompt.tokens"]) == 12
    [usage, _] = points["gen_ai.client.token.usage"]
    assert dict(usage.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mlxd",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m",
        "gen_ai.token.type": "input",
    }


def test_a_failed_generation_is_recorded_by_its_code_and_not_in_the_metrics_of_successful_ones(
    metrics: Metrics,
) -> None:
    record = RequestRecord()
    record.set_generation("chat", "m", [chat_submit()], stream=False)
    record.fail(Overloaded("full"))
    record.end(scope())
    metrics.recorder.observe(record)
    points = metrics.points()
    [point] = points["gen_ai.server.request.duration"]
    assert (point.attributes or {})["error.type"] == "overloaded"
    assert "gen_ai.server.time_to_first_token" not in points


def test_a_client_cannot_create_new_series(metrics: Metrics) -> None:
    for number in range(50):
        record = RequestRecord()
        record.status = 404
        record.end(scope(f"/no/such/path/{number}") | {"method": f"M{number}"})
        metrics.recorder.observe(record)
    assert len(metrics.points()["http.server.request.duration"]) == 1
