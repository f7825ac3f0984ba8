"""GET /health: whether tokens move."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["healthy", "loading", "restarting", "draining", "failed"]


class ExitHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker ended: by a signal or with an exit code, while it did what, and after how long.

    `reason` is in words: its own last ones where it had any.
    """

    reason: str
    signal: str | None
    code: int | None
    phase: Literal["loading", "idle", "busy"]
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
    """Device memory by MLX's own account. `limit_bytes` 0: no limit known."""

    active_bytes: int
    peak_bytes: int
    cache_bytes: int
    limit_bytes: int


class DeviceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What MLX computes on."""

    name: str
    backend: str
    memory_bytes: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the service; 200 only for healthy. `device` is null until a worker was ready."""

    status: Status
    version: str
    worker: WorkerHealth
    requests: RequestsHealth
    memory: MemoryHealth | None = None
    device: DeviceHealth | None = None
    reason: str | None = None
