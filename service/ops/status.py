"""GET /status: the current state, statistics per second, and the latest requests."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from protocol.messages import Submit
from protocol.model_states import ModelState
from protocol.units import MS_PER_S
from service.errors import InvalidRequest
from service.http.json_io import json_response
from service.inflight.registry import RequestRegistry
from service.inflight.sequence import InflightSequence
from service.ops.health import HealthEndpoint
from service.requestlog.access_log import in_ms
from service.requestlog.record import PHASES, RequestRecord
from service.schema.batching import describe_batching
from service.schema.status import InFlight, ModelStatus, RecentRequest, ServiceStatus
from service.schema.usage import to_parted
from service.supervision.supervisor import Supervisor
from service.telemetry.setup import Observability
from service.telemetry.step_stats import KEPT_S

# Any number of this length is below 2**53, and so exact in JSON.
MAX_AFTER_DIGITS = 15
# How many sequences in flight are shown.
MAX_IN_FLIGHT = 20


class StatusEndpoint:
    """Reports what the page shows. It contains no part of a prompt or an answer, and no key."""

    def __init__(
        self,
        health: HealthEndpoint,
        supervisor: Supervisor,
        registry: RequestRegistry,
        observability: Observability,
    ) -> None:
        self._health = health
        self._registry = registry
        self._supervisor = supervisor
        self._observability = observability

    async def get(self, request: Request) -> Response:
        """The status, with the seconds after `?after=` (Unix time).

        Raises:
            InvalidRequest: `after` is not a whole number.
        """
        return json_response(self.report(_read_after(request), request.scope))

    def report(self, after: int, scope: Scope) -> ServiceStatus:
        """The current status, with the seconds after `after`, as the request's caller may see it.

        `after` is Unix time.
        """
        return ServiceStatus(
            now=time.time(),
            window_s=KEPT_S,
            health=self._health.report(scope),
            max_running=self._supervisor.max_running,
            models=[model_status(state) for state in self._supervisor.model_states.states],
            seconds=self._observability.step_stats.since(after),
            in_flight=[
                in_flight(sequence, time.monotonic())
                for sequence in self._registry.list_oldest(MAX_IN_FLIGHT)
                if isinstance(sequence.submit, Submit)
            ],
            recent=[recent_request(record) for record in self._observability.recent],
        )


def _read_after(request: Request) -> int:
    text = request.query_params.get("after", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_AFTER_DIGITS):
        raise InvalidRequest("`after` must be a time in whole seconds.", param="after")
    return int(text)


def model_status(state: ModelState) -> ModelStatus:
    """One model, with the facts that are known once it is loaded."""
    info = state.info
    if info is None or state.status != "loaded":
        return ModelStatus(id=state.id, loaded=False)
    return ModelStatus(
        id=state.id,
        loaded=True,
        family=info.family,
        context_length=info.context_length,
        weight_bytes=info.weight_bytes,
        load_ms=info.load_ms,
        batching=describe_batching(state.rules),
    )


def in_flight(sequence: InflightSequence, now: float) -> InFlight:
    """One sequence in flight, in the API's shape; `now` is monotonic time in seconds."""
    attempts = sequence.attempts
    return InFlight(
        model=sequence.submit.model,
        phase=attempts.stage,
        age_s=round(now - attempts.began_at, 3),
        prompt_tokens=attempts.prompt_tokens,
        ready_tokens=attempts.ready_tokens,
        completion_tokens=len(sequence.tokens),
    )


def recent_request(record: RequestRecord) -> RecentRequest:
    """One finished request, in the API's shape."""
    served, use = bool(record.finished), record.use
    times = {phase: in_ms(record.phase_s(phase)) for phase in PHASES}
    return RecentRequest(
        id=record.id,
        at=record.ended_unix_s,
        operation=record.operation,
        model=record.model or "",
        stream=record.stream,
        status=record.status,
        finish=record.finish,
        restarts=record.restarts,
        failed=record.error_code is not None,
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        completion_tokens=record.completion_tokens,
        first_token_ms=None if record.first_token_s is None else in_ms(record.first_token_s),
        each_token_ms=None if record.each_token_s is None else record.each_token_s * MS_PER_S,
        **{f"{phase}_ms": times[phase] if served else None for phase in PHASES},
        memory_tokens=use.memory_tokens,
        disk_tokens=use.disk_tokens,
        shared_tokens=use.shared_tokens,
        computed_tokens=use.computed_tokens,
        common_tokens=use.common_tokens,
        parted=to_parted(use.parted),
        total_ms=in_ms(record.duration_s),
    )
