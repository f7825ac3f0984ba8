"""GET /status: the data of the page that other endpoints do not have."""

from __future__ import annotations

from typing import Literal

import msgspec

from service.schema.batching import ModelBatching
from service.schema.health import Health
from service.schema.usage import Parted


class Second(msgspec.Struct):
    """The statistics of one second with activity. `at` is Unix time.

    `running`, `waiting` and `memory_bytes` are the values after the last step of the second,
    `most_running` and `most_waiting` the highest values.
    """

    at: int
    tokens: int = 0
    running: int = 0
    waiting: int = 0
    most_running: int = 0
    most_waiting: int = 0
    memory_bytes: int = 0
    first_tokens: int = 0
    first_token_s: float = 0.0


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One configured model; fields that only a loaded model has are null while it is not loaded."""

    id: str
    loaded: bool
    family: str | None = None
    context_length: int | None = None
    weight_bytes: int | None = None
    load_ms: float | None = None
    batching: ModelBatching | None = None


class RecentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics of one request, without its content. `at` is the Unix time of its end.

    `finish` is the finish reason, or the code of the error that ended it. `each_token_ms` is
    the mean time per token after the first one. `restarts` counts the restarts of the worker
    during the request. The worker's timings are null if no sequence has ended. The tokens are those
    of `usage.mlxd`, of all sequences; `parted` is that of the first one.
    """

    id: str
    at: float
    operation: str
    model: str
    stream: bool
    status: int
    finish: str | None
    failed: bool
    restarts: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_token_ms: float | None
    each_token_ms: float | None
    queue_ms: float | None
    prefill_ms: float | None
    decode_ms: float | None
    preparation_ms: float | None
    load_ms: float | None
    restart_ms: float | None
    memory_tokens: int
    disk_tokens: int
    shared_tokens: int
    computed_tokens: int
    common_tokens: int
    parted: Parted | None
    total_ms: float


class InFlight(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence in flight, without its content. It has waited and run for `age_s`.

    Without a worker the phase is `restart`. Of the `prompt_tokens`, null while it waits, the first
    `ready_tokens` are computed or were cached.
    """

    model: str
    phase: Literal["restart", "queue", "prefill", "decode"]
    age_s: float
    prompt_tokens: int | None
    ready_tokens: int
    completion_tokens: int


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The current state of the service, and its activity in the last `window_s` seconds.

    `seconds` has the seconds with activity, including the current one. `in_flight` are the oldest
    sequences in flight, `recent` the latest that have ended.
    """

    now: float
    window_s: int
    health: Health
    max_running: int
    models: list[ModelStatus]
    seconds: list[Second]
    in_flight: list[InFlight]
    recent: list[RecentRequest]
