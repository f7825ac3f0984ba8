"""GET /health: answered from the service's own state, without a message to the worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from protocol.model_states import ModelState
from protocol.stats import Device, Memory, Stats
from service.http.json_io import json_response
from service.inflight.registry import RequestRegistry
from service.schema.health import (
    DeviceHealth,
    ExitHealth,
    Health,
    HealthSummary,
    MemoryHealth,
    ModelHealth,
    PrefillHealth,
    RankHealth,
    RequestsHealth,
    WorkerHealth,
)
from service.security.visibility import Visibility, visibility_of, visible
from service.supervision.exit_reason import LastExit
from service.supervision.supervisor import Supervisor

Show = Callable[[str], str]


class HealthEndpoint:
    """Reports whether the service can generate."""

    def __init__(self, supervisor: Supervisor, registry: RequestRegistry, version: str) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._version = version

    async def get(self, request: Request) -> Response:
        """Status 200 if the service is healthy, else 503."""
        status = self._supervisor.status
        code = 200 if status == "healthy" else 503
        if visibility_of(request.scope) is Visibility.STATUS:
            return json_response(HealthSummary(status=status), code)
        return json_response(self.report(request.scope), code)

    def report(self, scope: Scope) -> Health:
        """The current state, as the caller of the request may see it."""
        show = partial(visible, scope=scope)
        supervisor = self._supervisor
        last_exit, stats, ready = supervisor.last_exit, supervisor.stats, supervisor.ready
        return Health(
            status=supervisor.status,
            version=self._version,
            worker=WorkerHealth(
                pid=supervisor.pid,
                uptime_s=round(supervisor.uptime_s, 3),
                restarts=supervisor.restarts,
                last_exit=exit_health(last_exit, show) if last_exit else None,
                prefill=prefill_health(supervisor, show),
                ranks=list_ranks(supervisor, show),
            ),
            requests=self._requests(stats),
            memory=memory_health(stats.memory) if stats else None,
            device=device_health(ready.device) if ready else None,
            models=[model_health(state, show) for state in supervisor.model_states.states],
            reason=supervisor.failure and show(supervisor.failure),
        )

    def _requests(self, stats: Stats | None) -> RequestsHealth:
        """Sequences in flight that are not running are waiting, in the service or the worker."""
        running, preparing = (stats.running, stats.preparing) if stats else (0, 0)
        waiting = max(0, len(self._registry) - running)
        return RequestsHealth(running=running, waiting=waiting, preparing=min(preparing, waiting))


def exit_health(last_exit: LastExit, show: Show) -> ExitHealth:
    """How a worker exited, in the API's shape."""
    return ExitHealth(
        reason=show(last_exit.reason),
        signal=last_exit.signal,
        code=last_exit.code,
        phase=last_exit.phase,
        uptime_s=last_exit.uptime_s,
    )


def list_ranks(supervisor: Supervisor, show: Show) -> list[RankHealth]:
    """All ranks, in the API's shape."""
    return [
        RankHealth(
            rank=report.rank,
            host=show(report.host),
            pid=report.pid,
            state=report.state,
            away_s=report.away_s and round(report.away_s, 3),
            restarts=dict(report.restarts.items()),
        )
        for report in supervisor.attendance.reports
    ]


def prefill_health(supervisor: Supervisor, show: Show) -> PrefillHealth:
    """The limits of a slice of prefill, in the API's shape."""
    limits, reason = supervisor.prefill_limits, supervisor.shortened_because
    return PrefillHealth(
        rows=limits.prefill_rows,
        step_tokens=limits.prefill_step_tokens,
        slice_s=limits.prefill_slice_s,
        shortened_because=reason and show(reason),
    )


def memory_health(memory: Memory) -> MemoryHealth:
    """The worker's memory use, in the API's shape."""
    return MemoryHealth(
        active_bytes=memory.active,
        peak_bytes=memory.peak,
        cache_bytes=memory.cache,
        limit_bytes=memory.limit,
        footprint_bytes=memory.footprint,
        reserved_bytes=memory.reserved,
    )


def model_health(state: ModelState, show: Show) -> ModelHealth:
    """The worker's last state of one model, in the API's shape."""
    return ModelHealth(
        id=state.id,
        status=state.status,
        pinned=state.pinned,
        size_bytes=state.bytes,
        loaded_bytes=state.done_bytes,
        reason=state.reason and show(state.reason),
        split=state.info.split if state.info else None,
    )


def device_health(device: Device) -> DeviceHealth:
    """The worker's device, in the API's shape."""
    return DeviceHealth(name=device.name, backend=device.backend, memory_bytes=device.memory_bytes)
