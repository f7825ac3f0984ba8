"""The record of one request: filled while it is served, passed to the observers at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from starlette.types import Scope

from protocol.events import Event, Finished, PromptUse, TextDelta
from protocol.messages import Submit
from protocol.units import MS_PER_S
from service.errors import ClientDisconnected, MlxdError, response_for
from service.requestlog.event_batch import EventBatch

NS_PER_S = 1_000_000_000
CANCELLED = "cancelled"
INTERNAL = "internal_error"

Phase = Literal["preparation", "load", "restart", "queue", "prefill", "decode"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class RequestRecord:
    """One request. Times are seconds; names that end in `_at` are of the monotonic clock.

    The text of each sequence is kept only with `keeps_content`.
    """

    def __init__(
        self,
        *,
        keeps_content: bool = False,
        on_first_token: Callable[[float], None] | None = None,
        count_restarts: Callable[[], int] = lambda: 0,
    ) -> None:
        self.began_ns = time.time_ns()
        self.began_at = time.monotonic()
        self.ended_at = self.began_at
        self.keeps_content = keeps_content
        self._on_first_token = on_first_token
        self._count_restarts = count_restarts
        self._restarts_before = count_restarts()
        # The restarts of the worker while the request was served; each paused the answer.
        self.restarts = 0
        self.id = ""
        self.method = ""
        self.path = ""
        self.route: str | None = None
        self.key: str | None = None
        self.status = 0
        self.error_code: str | None = None
        self.error_message: str | None = None
        self.operation = ""
        self.model: str | None = None
        self.answer_id: str | None = None
        self.stream = False
        self.submits: Sequence[Submit] = ()
        self.first_token_at: float | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        # Each with the time at which it arrived, of the monotonic clock.
        self.finished: list[tuple[float, Finished]] = []
        self.texts: dict[int, str] = {}

    # ------------------------------------------------------------ while the request is served

    def set_generation(
        self, operation: str, model: str, submits: Sequence[Submit], *, stream: bool
    ) -> None:
        """Set what the request generates; from now on it counts as a generation."""
        self.operation, self.model, self.stream = operation, model, stream
        self.submits = submits

    def add_events(self, batch: EventBatch) -> None:
        """Add the counts of events that arrived together."""
        self.prompt_tokens += batch.prompt_tokens
        self.completion_tokens += batch.completion_tokens
        if batch.completion_tokens and self.first_token_at is None:
            self._set_first_token()
        for end in batch.finished:
            self.finished.append((time.monotonic(), end))
        if self.keeps_content:
            self._keep_text(batch.events)

    def fail(self, error: BaseException) -> None:
        """Set the error that ended the request; only the first error counts."""
        if self.error_code is not None:
            return
        if isinstance(error, MlxdError):
            self.error_code = error.code or type(error).__name__
            self.error_message = error.message
            status = response_for(error).status
        elif isinstance(error, Exception):
            self.error_code, status = INTERNAL, 500
        else:
            self.error_code, status = CANCELLED, response_for(ClientDisconnected("")).status
        self.status = self.status or status

    def end(self, scope: Scope) -> None:
        """Complete the record, with what the middlewares and the router have put into `scope`."""
        state = scope.get("state", {})
        self.ended_at = time.monotonic()
        self.restarts = self._count_restarts() - self._restarts_before
        self.id = state.get("request_id", "")
        self.key = state.get("key_name")
        self.method, self.path = scope["method"], scope["path"]
        self.route = getattr(scope.get("route"), "path", None)

    def _keep_text(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, TextDelta):
                self.texts[event.id] = self.texts.get(event.id, "") + event.text

    def _set_first_token(self) -> None:
        self.first_token_at = time.monotonic()
        if self._on_first_token is not None:
            self._on_first_token(self.first_token_at - self.began_at)

    # ------------------------------------------------------------ after the request has ended

    @property
    def duration_s(self) -> float:
        """The time from the request's headers to the end of the answer."""
        return self.ended_at - self.began_at

    @property
    def first_token_s(self) -> float | None:
        """The time to the first token of any sequence."""
        return None if self.first_token_at is None else self.first_token_at - self.began_at

    def phase_s(self, phase: Phase) -> float:
        """The longest time of a sequence in this phase, measured by the worker."""
        times = (getattr(end, f"{phase}_ms") for _, end in self.finished)
        return max(times, default=0.0) / MS_PER_S

    @property
    def queue_s(self) -> float:
        """The longest time that a sequence waited for the device."""
        return self.phase_s("queue")

    @property
    def prefill_s(self) -> float:
        """The longest prefill of a sequence."""
        return self.phase_s("prefill")

    @property
    def decode_s(self) -> float:
        """The longest decode of a sequence."""
        return self.phase_s("decode")

    @property
    def use(self) -> PromptUse:
        """Where the tokens of all sequences' prompts came from; the rest is that of the first."""
        uses = [end.use for _, end in sorted(self.finished, key=lambda each: each[1].id)]
        return PromptUse(
            memory_tokens=sum(use.memory_tokens for use in uses),
            disk_tokens=sum(use.disk_tokens for use in uses),
            shared_tokens=sum(use.shared_tokens for use in uses),
            computed_tokens=sum(use.computed_tokens for use in uses),
            common_tokens=uses[0].common_tokens if uses else 0,
            parted=uses[0].parted if uses else None,
        )

    @property
    def each_token_s(self) -> float | None:
        """The mean time per token after the first one, over all sequences.

        It includes pauses for a new worker.
        """
        tokens = sum(end.completion_tokens - 1 for _, end in self.finished)
        if self.first_token_at is None or tokens < 1:
            return None
        return sum(ended_at - self.first_token_at for ended_at, _ in self.finished) / tokens

    @property
    def cached_tokens(self) -> int:
        """The number of prompt tokens found in the prefix cache."""
        return sum(end.cached_tokens for _, end in self.finished)

    @property
    def finish(self) -> str | None:
        """Why the request ended: an error code, or the finish reasons of its sequences."""
        reasons = sorted({end.reason for _, end in self.finished})
        return self.error_code or ",".join(reasons) or None

    @property
    def ended_unix_s(self) -> float:
        """The time of the end as Unix time."""
        return self.began_ns / NS_PER_S + self.duration_s

    def at_ns(self, at: float) -> int:
        """A time of the monotonic clock as Unix time in nanoseconds."""
        return self.began_ns + int((at - self.began_at) * NS_PER_S)


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request with this `scope`; without one, a new record that is not stored."""
    record = scope.get("state", {}).get("record")
    return record if isinstance(record, RequestRecord) else RequestRecord()
