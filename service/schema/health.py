"""GET /health: whether tokens move."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.messages import LoadStatus

HealthStatus = Literal["healthy", "loading", "restarting", "draining", "failed"]
WorkerPhase = Literal["loading", "idle", "busy"]


class ExitHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker ended: by a signal or with an exit code, while it did what, and after how long.

    `reason` is in words: its own last ones where it had any.
    """

    reason: str
    signal: str | None
    code: int | None
    phase: WorkerPhase
    uptime_s: float


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The worker process; `pid` is null while there is none, `last_exit` until one has ended."""

    pid: int | None
    uptime_s: float
    restarts: int
    last_exit: ExitHealth | None


class RequestsHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Sequences on the device, and those that wait for it."""

    running: int
    waiting: int


class MemoryHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Memory by MLX's own account, and by the system's of the whole worker.

    `limit_bytes` is the budget, `reserved_bytes` what of it is spent or promised to requests;
    0: not known.
    """

    active_bytes: int
    peak_bytes: int
    cache_bytes: int
    limit_bytes: int
    footprint_bytes: int = 0
    reserved_bytes: int = 0


class ModelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One configured model; `reason` says why a load failed, or what it waits for."""

    id: str
    status: LoadStatus
    pinned: bool
    size_bytes: int
    loaded_bytes: int
    reason: str | None = None


class DeviceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What MLX computes on."""

    name: str
    backend: str
    memory_bytes: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the service; 200 only for healthy. `device` is null until a worker was ready."""

    status: HealthStatus
    version: str
    worker: WorkerHealth
    requests: RequestsHealth
    memory: MemoryHealth | None = None
    device: DeviceHealth | None = None
    models: list[ModelHealth] = []
    reason: str | None = None
