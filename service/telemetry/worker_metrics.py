"""The metrics that are read at each collection: the worker's state, and totals of its steps.

Each metric is one row of a table: name, unit, description, and a function that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from protocol.stats import Stats
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
        name="mlxd.sequences.running",
        unit="{sequence}",
        description="Sequences in the batch on the device.",
        read=lambda stats: stats.running,
    ),
    WorkerGauge(
        name="mlxd.sequences.waiting",
        unit="{sequence}",
        description="Sequences in the queue for the device.",
        read=lambda stats: stats.waiting,
    ),
    WorkerGauge(
        name="mlxd.sequences.preparing",
        unit="{sequence}",
        description="Waiting sequences whose prompt or grammar is being prepared.",
        read=lambda stats: stats.preparing,
    ),
    WorkerGauge(
        name="mlxd.memory.preparation",
        unit="By",
        description="Memory of the preparation processes and of the prompts that wait for them.",
        read=lambda stats: stats.memory.preparation,
    ),
    WorkerGauge(
        name="mlxd.memory.active",
        unit="By",
        description="Device memory in use, as counted by MLX.",
        read=lambda stats: stats.memory.active,
    ),
    WorkerGauge(
        name="mlxd.memory.peak",
        unit="By",
        description="Peak of the device memory used by this worker.",
        read=lambda stats: stats.memory.peak,
    ),
    WorkerGauge(
        name="mlxd.memory.cache",
        unit="By",
        description="Freed device memory in the cache of MLX.",
        read=lambda stats: stats.memory.cache,
    ),
    WorkerGauge(
        name="mlxd.memory.limit",
        unit="By",
        description="Memory budget of the models; 0 if unknown.",
        read=lambda stats: stats.memory.limit,
    ),
    WorkerGauge(
        name="mlxd.memory.reserved",
        unit="By",
        description="Part of the memory budget that is used or reserved.",
        read=lambda stats: stats.memory.reserved,
    ),
    WorkerGauge(
        name="mlxd.memory.footprint",
        unit="By",
        description="Memory footprint of the worker's process, as counted by the system.",
        read=lambda stats: stats.memory.footprint,
    ),
)

WORKER_COUNTERS = (
    WorkerCounter(
        name="mlxd.worker.steps",
        unit="{step}",
        description="Device steps.",
        read=lambda totals: totals.steps,
    ),
    WorkerCounter(
        name="mlxd.worker.step.sequences",
        unit="{sequence}",
        description="Sequences summed over all steps; divided by the steps: the mean batch size.",
        read=lambda totals: totals.step_sequences,
    ),
    WorkerCounter(
        name="mlxd.worker.device.time",
        unit="s",
        description="Time that steps spent on the device.",
        read=lambda totals: totals.device_s,
    ),
    WorkerCounter(
        name="mlxd.worker.host.time",
        unit="s",
        description="Time that steps spent on the host.",
        read=lambda totals: totals.host_s,
    ),
    WorkerCounter(
        name="mlxd.preparation.time",
        unit="s",
        description="Time that the preparation of prompts took.",
        read=lambda totals: totals.preparation_s,
    ),
    WorkerCounter(
        name="mlxd.preparation.size",
        unit="By",
        description="Size of the prompts that were prepared, as sent to the worker.",
        read=lambda totals: totals.preparation_bytes,
    ),
    WorkerCounter(
        name="mlxd.sequences.preempted",
        unit="{sequence}",
        description="Times that a running sequence was queued again, for memory or other clients.",
        read=lambda totals: totals.preempted,
    ),
    WorkerCounter(
        name="mlxd.recomputed.tokens",
        unit="{token}",
        description="Tokens that were prefilled again for sequences that had been preempted.",
        read=lambda totals: totals.recomputed_tokens,
    ),
    WorkerCounter(
        name="mlxd.prediction.accepted_tokens",
        unit="{token}",
        description="Drafted tokens that became tokens of an answer.",
        read=lambda totals: totals.accepted_tokens,
    ),
    WorkerCounter(
        name="mlxd.prediction.rejected_tokens",
        unit="{token}",
        description="Drafted tokens that were computed and are in no answer.",
        read=lambda totals: totals.rejected_tokens,
    ),
    WorkerCounter(
        name="mlxd.output.tokens",
        unit="{token}",
        description="Generated tokens, including those of unfinished answers.",
        read=lambda totals: totals.tokens,
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
    meter.create_observable_gauge(
        "mlxd.worker.ranks",
        [callback(lambda: sum(rank.pid is not None for rank in supervisor.attendance.reports))],
        "{process}",
        "Processes that compute the models together.",
    )
    meter.create_observable_gauge(
        "mlxd.worker.rank.up",
        [partial(_observe_ranks, supervisor)],
        "1",
        "Whether a rank runs together with the others.",
    )
    meter.create_observable_counter(
        "mlxd.worker.rank.losses",
        [partial(_observe_losses, supervisor)],
        "{loss}",
        "Starts of all ranks because of one, by its number, host and cause.",
    )
    meter.create_observable_counter(
        "mlxd.draft.tokens",
        [partial(_observe_drafts, totals)],
        "{token}",
        "Drafted tokens that were verified, by where they come from and whether they were right.",
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


def _observe_ranks(supervisor: Supervisor, _: CallbackOptions) -> Iterable[Observation]:
    return [
        Observation(int(rank.state == "running"), {"rank": rank.rank, "host": rank.host})
        for rank in supervisor.attendance.reports
    ]


def _observe_drafts(totals: Totals, _: CallbackOptions) -> Iterable[Observation]:
    # A copy: the reader is another thread.
    return [
        Observation(count, {"source": source, "result": result})
        for (source, result), count in list(totals.drafted_tokens.items())
    ]


def _observe_losses(supervisor: Supervisor, _: CallbackOptions) -> Iterable[Observation]:
    return [
        Observation(count, {"rank": rank.rank, "host": rank.host, "cause": cause})
        for rank in supervisor.attendance.reports
        for cause, count in rank.restarts.items()
    ]


def _read_gauge(supervisor: Supervisor, read: Callable[[Stats], float]) -> float | None:
    stats = supervisor.stats
    return None if stats is None else read(stats)
