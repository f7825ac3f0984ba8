"""GET /health: the state of the service."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.model_states import LoadStatus
from protocol.ranks import Split

HealthStatus = Literal["healthy", "loading", "restarting", "draining", "failed"]
WorkerPhase = Literal["loading", "idle", "busy"]
RankState = Literal["starting", "running", "away"]


class ExitHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The exit of a worker: its signal or exit code, its phase, and its uptime.

    `reason` is a description: the worker's last message if it sent one, else also the end of its
    standard error.
    """

    reason: str
    signal: str | None
    code: int | None
    phase: WorkerPhase
    uptime_s: float


class PrefillHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The largest slice of prefill: its rows, the tokens of each, and about how long it takes.

    `shortened_because` is the exit of a worker after which slices were shortened, else null.
    """

    rows: int
    step_tokens: int
    slice_s: float
    shortened_because: str | None


class RankHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One of the processes that compute the models together; `pid` is null while none runs.

    `away_s` is for how long it is away, else null. `restarts` is how often all of them were started
    again because of this one, by cause: killed, failed, unreachable, stalled.
    """

    rank: int
    host: str
    pid: int | None
    state: RankState = "starting"
    away_s: float | None = None
    restarts: dict[str, int] = {}


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The worker process; `pid` is null while none runs, `last_exit` until one has ended.

    `ranks` are all of its processes, of which it is the first.
    """

    pid: int | None
    uptime_s: float
    restarts: int
    last_exit: ExitHealth | None
    prefill: PrefillHealth | None = None
    ranks: list[RankHealth] = []


class RequestsHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of running and of waiting sequences.

    `preparing` are those of the waiting ones whose prompt or grammar is being prepared.
    """

    running: int
    waiting: int
    preparing: int = 0


class MemoryHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's memory: MLX's counters, and the footprint that the system reports.

    `limit_bytes` is the memory budget, `reserved_bytes` the part of it that is in use or
    reserved for requests; 0 is unknown.
    """

    active_bytes: int
    peak_bytes: int
    cache_bytes: int
    limit_bytes: int
    footprint_bytes: int = 0
    reserved_bytes: int = 0


class ModelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One configured model; `reason` is why its load failed, or what the load waits for.

    `split` is how several ranks compute it together: null for one process.
    """

    id: str
    status: LoadStatus
    pinned: bool
    size_bytes: int
    loaded_bytes: int
    reason: str | None = None
    split: Split | None = None


class DeviceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The device that MLX computes on."""

    name: str
    backend: str
    memory_bytes: int


class HealthSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The status alone: what callers see without a key, or from other machines."""

    status: HealthStatus


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the service; `device` is null until a worker has been ready."""

    status: HealthStatus
    version: str
    worker: WorkerHealth
    requests: RequestsHealth
    memory: MemoryHealth | None = None
    device: DeviceHealth | None = None
    models: list[ModelHealth] = []
    reason: str | None = None
