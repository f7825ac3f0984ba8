"""The metrics that are read when somebody asks: the worker's state, and what its steps add up to.

Each is one row of a table: its name, its unit, what it is, and where it is read.
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
    """A gauge of what the worker last said of itself; nothing where none is ready."""

    name: str
    unit: str
    description: str
    read: Callable[[Stats], float]


class WorkerCounter(NamedTuple):
    """A counter of what all steps add up to."""

    name: str
    unit: str
    description: str
    read: Callable[[Totals], float]


STATE = (
    WorkerGauge(
        "mlxd.sequences.running",
        "{sequence}",
        "Sequences on the device: the batch.",
        lambda stats: stats.running,
    ),
    WorkerGauge(
        "mlxd.sequences.waiting",
        "{sequence}",
        "Sequences that wait for the device: the queue.",
        lambda stats: stats.waiting,
    ),
    WorkerGauge(
        "mlxd.memory.active",
        "By",
        "Device memory in use, by MLX's account.",
        lambda stats: stats.memory.active,
    ),
    WorkerGauge(
        "mlxd.memory.peak",
        "By",
        "The most device memory that this worker has used.",
        lambda stats: stats.memory.peak,
    ),
    WorkerGauge(
        "mlxd.memory.cache",
        "By",
        "Freed device memory that MLX keeps.",
        lambda stats: stats.memory.cache,
    ),
    WorkerGauge(
        "mlxd.memory.limit",
        "By",
        "The budget of memory for models; 0 is unknown.",
        lambda stats: stats.memory.limit,
    ),
    WorkerGauge(
        "mlxd.memory.reserved",
        "By",
        "What of the budget is spent or promised.",
        lambda stats: stats.memory.reserved,
    ),
    WorkerGauge(
        "mlxd.memory.footprint",
        "By",
        "What the worker's process takes, by the system's account.",
        lambda stats: stats.memory.footprint,
    ),
)

TOTALS = (
    WorkerCounter("mlxd.worker.steps", "{step}", "Device steps.", lambda totals: totals.steps),
    WorkerCounter(
        "mlxd.worker.step.sequences",
        "{sequence}",
        "Sequences in these steps; divided by the steps it is the mean batch.",
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
        "Time that steps spent beside the device.",
        lambda totals: totals.host_s,
    ),
    WorkerCounter(
        "mlxd.output.tokens",
        "{token}",
        "Tokens generated, those of unfinished answers too.",
        lambda totals: totals.tokens,
    ),
)


def create_worker_metrics(meter: Meter, supervisor: Supervisor, totals: Totals) -> None:
    """Have `meter` read all of them whenever its metrics are collected, on any thread."""
    for state in STATE:
        meter.create_observable_gauge(
            state.name,
            [callback(partial(_read_state, supervisor, state.read))],
            state.unit,
            state.description,
        )
    for total in TOTALS:
        meter.create_observable_counter(
            total.name,
            [callback(partial(total.read, totals))],
            total.unit,
            total.description,
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
    """`read` as OpenTelemetry calls it; None is no observation."""

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        value = read()
        return [] if value is None else [Observation(value)]

    return observe


def _read_state(supervisor: Supervisor, read: Callable[[Stats], float]) -> float | None:
    stats = supervisor.stats
    return None if stats is None else read(stats)
