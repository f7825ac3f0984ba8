"""Admission: which waiting requests may run, by `max_running` and by memory.

A request is admitted when its worst case fits: the KV cache of its prompt and of all
tokens up to its limit. A request without a limit reserves some tokens at a time; when the
next reservation does not fit, it is preempted, and later resumes from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from protocol.events import Rejected
from worker.intake.prepared import PreparedRequest
from worker.memory.accounting import KVReservations
from worker.models.pool import ModelPool
from worker.models.weight_loader import LoadedModel
from worker.prompt_errors import context_length_exceeded
from worker.scheduler.waiting_queue import NONE_RUNNING, WaitingQueue

MEMORY_LIMIT = "The memory of this server holds {longest} tokens of this model at most"
WHOLE_LIMIT = (
    "This model's prompts cannot be computed in slices, and the memory for prefill holds "
    "{longest} tokens at most"
)
# How many tokens an answer without a token limit reserves at a time.
RESERVATION_TOKENS = 1024


class Admission:
    """Admits the requests of one waiting queue; they wait for memory for at most `wait_s`."""

    def __init__(
        self,
        pool: ModelPool,
        waiting: WaitingQueue,
        *,
        max_running: int,
        wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._waiting = waiting
        self._wait_s = wait_s
        self._clock = clock
        self._blocked_since: dict[str, float] = {}
        self.max_running = max_running
        # Set while the whole budget is in use: no request is admitted.
        self.closed = False

    def is_blocked(self, model: str) -> bool:
        """Whether the next request of this model waits for memory."""
        return model in self._blocked_since

    def next(
        self, model: LoadedModel, running: Mapping[str, int] = NONE_RUNNING
    ) -> PreparedRequest | Rejected | None:
        """Remove and return this model's next request, or its rejection; None if it must wait.

        `running` is how many of its requests run, by client. The request's `max_tokens` is
        lowered to what memory can hold.
        """
        id = model.info.id
        head = self._waiting.peek(id, running)
        if head is None or len(model.engine) >= self.max_running:
            return None
        most = model.engine.longest_prompt
        if most is not None and len(head.context) > most:
            self._waiting.remove([head.submit.id])
            return too_long(head, most, WHOLE_LIMIT)
        longest = self._max_length(model, head)
        worst_case = len(head.prompt) + head.max_tokens
        if longest < (worst_case if head.is_bounded else len(head.context) + 1):
            self._waiting.remove([head.submit.id])
            return too_long(head, longest, MEMORY_LIMIT)
        head = dataclasses.replace(head, max_tokens=min(worst_case, longest) - len(head.prompt))
        kv = self._pool.account.kv[id]
        tokens = first_reservation(head)
        needed_bytes = kv.additional_bytes(head.submit.id, tokens)
        if self.closed or not self._pool.eviction.make_room(
            needed_bytes, self._waiting, head.received_at
        ):
            self._blocked_since.setdefault(id, self._clock())
            return None
        self._waiting.remove([head.submit.id])
        self._blocked_since.pop(id, None)
        kv.reserve(head.submit.id, tokens)
        return head

    def extend(self, kv: KVReservations, prepared: PreparedRequest, tokens: int) -> bool:
        """Extend the reservation if `tokens` exceed it; False if that does not fit."""
        id = prepared.submit.id
        reserved = kv.reserved_tokens(id)
        if tokens <= reserved:
            return True
        extended = min(reserved + RESERVATION_TOKENS, len(prepared.prompt) + prepared.max_tokens)
        if not self._pool.eviction.make_room(kv.additional_bytes(id, extended), self._waiting):
            return False
        kv.reserve(id, extended)
        return True

    def watch(self) -> None:
        """Record since when models with waiting requests have waited for memory."""
        for id in self._waiting.models:
            if self._pool.awaiting_memory(id):
                self._blocked_since.setdefault(id, self._clock())
            elif id not in self._pool:
                self._blocked_since.pop(id, None)

    def expire(self) -> list[Rejected]:
        """Remove and reject the requests that waited too long for memory."""
        expired = []
        for id, since in list(self._blocked_since.items()):
            if not self._waiting.for_model(id):
                del self._blocked_since[id]
            elif self._pool.cannot_fit(id) or self._clock() >= since + self._wait_s:
                expired += self._expire(id)
        return expired

    def _expire(self, id: str) -> list[Rejected]:
        """Remove and reject this model's requests that are too old; preempted ones stay."""
        latest = self._clock() - self._wait_s
        waiting = [p for p in self._waiting.for_model(id) if not p.started]
        expired = [p for p in waiting if p.received_at <= latest or self._pool.cannot_fit(id)]
        self._waiting.remove({p.submit.id for p in expired})
        reason = self._pool.explain_shortage(id)
        return [Rejected(p.submit.id, "insufficient_memory", reason) for p in expired]

    def _max_length(self, model: LoadedModel, prepared: PreparedRequest) -> int:
        """How many tokens of this request would fit if it ran alone."""
        return model.engine.kv_cost.longest_within(
            self._pool.available_to(model.info.id), len(prepared.prompt) + prepared.max_tokens
        )


def first_reservation(prepared: PreparedRequest) -> int:
    """The tokens to reserve at admission."""
    worst_case = len(prepared.prompt) + prepared.max_tokens
    if prepared.is_bounded:
        return worst_case
    return min(worst_case, len(prepared.context) + RESERVATION_TOKENS)


def too_long(prepared: PreparedRequest, longest: int, limit: str) -> Rejected:
    """The rejection of a request that is above a limit; it could have `longest` tokens."""
    error = context_length_exceeded(
        prepared.submit, len(prepared.prompt), limit.format(longest=longest)
    )
    return Rejected(prepared.submit.id, error.code, error.message, error.param)
