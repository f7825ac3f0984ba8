"""GET /status: what the page shows, besides what other endpoints tell."""

from __future__ import annotations

import msgspec

from service.schema.health import Health


class Second(msgspec.Struct):
    """One second in which there was something: `at` is Unix time, counts are of this second.

    `running`, `waiting` and `memory_bytes` are as its last step left them, `most_running` and
    `most_waiting` what they were at most.
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
    """One configured model; what only loading it tells is null while it is not loaded."""

    id: str
    loaded: bool
    family: str | None = None
    context_length: int | None = None
    weight_bytes: int | None = None
    load_ms: float | None = None


class RecentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """How one generation went, never what was said in it. `at` is the Unix time of its end.

    `finish` is its finish reason, or the code of the error that ended it. `each_token_ms`
    is the mean time a token after the first one; `restarts` counts the workers that were
    replaced under it. The timings of the device are null where
    it never got there.
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
    total_ms: float


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the service now, and what it did in the last `window_s` seconds.

    `seconds` are those in which there was something, the one that is not over among them.
    """

    now: float
    window_s: int
    health: Health
    max_running: int
    models: list[ModelStatus]
    seconds: list[Second]
    recent: list[RecentRequest]
