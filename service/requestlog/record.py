"""What is known of one request: noted while it is served, read by who observes its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from starlette.types import Scope

from protocol.messages import Event, Finished, Submit, TextDelta
from protocol.units import MS_PER_S
from service.errors import ClientDisconnected, MlxdError, response_for
from service.requestlog.event_batch import EventBatch

NS_PER_S = 1_000_000_000
CANCELLED = "cancelled"
INTERNAL = "internal_error"


class RequestRecord:
    """One request. Times are seconds; those that end in `_at` are of the monotonic clock.

    `text` is kept for each sequence only where `keeps_content` says so.
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
        # How often the worker was replaced under it: a pause for who waits for the answer.
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
        self.ends: list[tuple[float, Finished]] = []
        self.texts: dict[int, str] = {}

    # ------------------------------------------------------------ while it is served

    def ask(self, operation: str, model: str, submits: Sequence[Submit], *, stream: bool) -> None:
        """What is asked for; from here on it counts as a generation."""
        self.operation, self.model, self.stream = operation, model, stream
        self.submits = submits

    def add_events(self, batch: EventBatch) -> None:
        """Add events that have come together."""
        self.prompt_tokens += batch.prompt_tokens
        self.completion_tokens += batch.completion_tokens
        if batch.completion_tokens and self.first_token_at is None:
            self._begin_answer()
        for end in batch.finished:
            self.ends.append((time.monotonic(), end))
        if self.keeps_content:
            self._keep_text(batch.events)

    def fail(self, error: BaseException) -> None:
        """The request ends with this error; the first one counts."""
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
        """Nothing more comes: take what the parts on the way have left in `scope`."""
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

    def _begin_answer(self) -> None:
        self.first_token_at = time.monotonic()
        if self._on_first_token is not None:
            self._on_first_token(self.first_token_at - self.began_at)

    # ------------------------------------------------------------ once it has ended

    @property
    def duration_s(self) -> float:
        """From its headers to the end of its answer."""
        return self.ended_at - self.began_at

    @property
    def first_token_s(self) -> float | None:
        """How long its client waited for the first token of any sequence."""
        return None if self.first_token_at is None else self.first_token_at - self.began_at

    @property
    def queue_s(self) -> float:
        """How long its last sequence waited for the device; by the worker."""
        return max((end.queue_ms for _, end in self.ends), default=0.0) / MS_PER_S

    @property
    def prefill_s(self) -> float:
        """How long its longest prefill took; by the worker."""
        return max((end.prefill_ms for _, end in self.ends), default=0.0) / MS_PER_S

    @property
    def decode_s(self) -> float:
        """How long its longest decoding took; by the worker."""
        return max((end.decode_ms for _, end in self.ends), default=0.0) / MS_PER_S

    @property
    def each_token_s(self) -> float | None:
        """The mean time a token after the first one; pauses for a new worker are part of it.

        Of sequences beside each other it is the mean, too.
        """
        tokens = sum(end.completion_tokens - 1 for _, end in self.ends)
        if self.first_token_at is None or tokens < 1:
            return None
        return sum(moment - self.first_token_at for moment, _ in self.ends) / tokens

    @property
    def cached_tokens(self) -> int:
        """How many of its prompt's tokens were not computed again."""
        return sum(end.cached_tokens for _, end in self.ends)

    @property
    def finish(self) -> str | None:
        """Why it ended: an error's code, or the finish reasons of its sequences."""
        reasons = sorted({end.reason for _, end in self.ends})
        return self.error_code or ",".join(reasons) or None

    @property
    def ended_unix_s(self) -> float:
        """When it ended, as Unix time."""
        return self.began_ns / NS_PER_S + self.duration_s

    def at_ns(self, moment: float) -> int:
        """A moment of the monotonic clock as Unix time in nanoseconds."""
        return self.began_ns + int((moment - self.began_at) * NS_PER_S)


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request that `scope` is of; one that nobody reads where it has none."""
    found = scope.get("state", {}).get("record")
    return found if isinstance(found, RequestRecord) else RequestRecord()
