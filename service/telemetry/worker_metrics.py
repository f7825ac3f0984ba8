"""The metrics that are read at each collection: the worker's state, and totals of its steps.

Each metric is one row of a table: name, unit, description, and a function that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from protocol.messages import Stats
from service.supervision.supervisor import Supervisor
from service.telemetry.step_stats import Totals


class WorkerGauge(NamedTuple):
    """A gauge of the worker's last statistics; it has no value while no worker is ready."""

    name: str
    unit: str
    description: str
    read: Callable[[Stats], float]


class WorkerCounter(NamedTuple):
    """A counter of the totals of all steps."""

    name: str
    unit: str
    description: str
    read: Callable[[Totals], float]


WORKER_GAUGES = (
    WorkerGauge(
        "mlxd.sequences.running",
        "{sequence}",
        "Sequences in the batch on the device.",
        lambda stats: stats.running,
    ),
    WorkerGauge(
        "mlxd.sequences.waiting",
        "{sequence}",
        "Sequences in the queue for the device.",
        lambda stats: stats.waiting,
    ),
    WorkerGauge(
        "mlxd.memory.active",
        "By",
        "Device memory in use, as counted by MLX.",
        lambda stats: stats.memory.active,
    ),
    WorkerGauge(
        "mlxd.memory.peak",
        "By",
        "Peak of the device memory used by this worker.",
        lambda stats: stats.memory.peak,
    ),
    WorkerGauge(
        "mlxd.memory.cache",
        "By",
        "Freed device memory in the cache of MLX.",
        lambda stats: stats.memory.cache,
    ),
    WorkerGauge(
        "mlxd.memory.limit",
        "By",
        "Memory budget of the models; 0 if unknown.",
        lambda stats: stats.memory.limit,
    ),
    WorkerGauge(
        "mlxd.memory.reserved",
        "By",
        "Part of the memory budget that is used or reserved.",
        lambda stats: stats.memory.reserved,
    ),
    WorkerGauge(
        "mlxd.memory.footprint",
        "By",
        "Memory footprint of the worker's process, as counted by the system.",
        lambda stats: stats.memory.footprint,
    ),
)

WORKER_COUNTERS = (
    WorkerCounter("mlxd.worker.steps", "{step}", "Device steps.", lambda totals: totals.steps),
    WorkerCounter(
        "mlxd.worker.step.sequences",
        "{sequence}",
        "Sequences summed over the steps; divided by the steps it is the mean batch size.",
        lambda totals: totals.step_sequences,
    ),
    WorkerCounter(
        "mlxd.worker.device.time",
        "s",
        "Time that steps spent on the device.",
        lambda totals: totals.device_s,
    ),
    WorkerCounter(
        "mlxd.worker.host.time",
        "s",
        "Time that steps spent on the host.",
        lambda totals: totals.host_s,
    ),
    WorkerCounter(
        "mlxd.output.tokens",
        "{token}",
        "Generated tokens, including those of unfinished answers.",
        lambda totals: totals.tokens,
    ),
)


def create_worker_metrics(meter: Meter, supervisor: Supervisor, totals: Totals) -> None:
    """Register all metrics with `meter`, which reads them at each collection, on any thread."""
    for gauge in WORKER_GAUGES:
        meter.create_observable_gauge(
            gauge.name,
            [callback(partial(_read_gauge, supervisor, gauge.read))],
            gauge.unit,
            gauge.description,
        )
    for counter in WORKER_COUNTERS:
        meter.create_observable_counter(
            counter.name,
            [callback(partial(counter.read, totals))],
            counter.unit,
            counter.description,
        )
    meter.create_observable_gauge(
        "mlxd.worker.up",
        [callback(lambda: int(supervisor.ready is not None))],
        "1",
        "Whether a worker is ready.",
    )
    meter.create_observable_counter(
        "mlxd.worker.restarts",
        [callback(lambda: supervisor.restarts)],
        "{restart}",
        "Workers started after the first one.",
    )


def callback(
    read: Callable[[], float | None],
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """An OpenTelemetry callback that observes the result of `read`, unless it is None."""

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        value = read()
        return [] if value is None else [Observation(value)]

    return observe


def _read_gauge(supervisor: Supervisor, read: Callable[[Stats], float]) -> float | None:
    stats = supervisor.stats
    return None if stats is None else read(stats)
