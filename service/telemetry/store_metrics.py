"""The metrics of the store of responses: sizes and counts, no content."""

from __future__ import annotations

from opentelemetry.metrics import Meter

from service.store.index import StoreIndex
from service.telemetry.worker_metrics import callback


def create_store_metrics(meter: Meter, index: StoreIndex) -> None:
    """Register all metrics with `meter`, which reads them at each collection, on any thread."""
    meter.create_observable_gauge(
        "mlxd.response_store",
        [callback(lambda: index.usage.held_bytes)],
        "By",
        "Size of the responses, conversations and items that are kept.",
    )
    meter.create_observable_gauge(
        "mlxd.response_store.entries",
        [callback(lambda: len(index.entries))],
        "{entry}",
        "Responses and conversations that are kept.",
    )
    meter.create_observable_counter(
        "mlxd.response_store.evictions",
        [callback(lambda: index.evictions)],
        "{entry}",
        "Responses and conversations that were evicted: expired, or for room.",
    )
