"""Admission: which waiting requests may run, by `max_running` and by memory.

A request whose `max_tokens` is no ceiling is admitted when its worst case fits: the KV cache
of its prompt and of all tokens up to its limit. Any other reserves a stretch of its answer, and
further ones as it grows, each as long as the answer so far. Where a stretch does not fit, a
request is preempted (`shortage`). It is admitted again with so much reserved that few
requests are preempted twice.
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
from worker.scheduler.waiting_queue import NONE_RUNNING, Waiting, WaitingQueue

# The words by which clients recognise the error; see `PromptBuilder.limit`.
MEMORY_LIMIT = "This model's maximum context length is {longest} tokens in this server's memory"
WHOLE_LIMIT = (
    "This model's maximum context length is {longest} tokens in this server's memory for prefill, "
    "because its prompts cannot be computed in slices"
)
# The shortest stretch of an answer that is reserved at a time.
RESERVATION_TOKENS = 1024
# A request that was preempted for memory is admitted again when its worst case fits, or what
# fits in this part of the memory: most requests are then preempted once at most, and several
# run at once even if the worst case of each is the whole memory.
GUARANTEED_PART = 4


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
        # Whether the next request of the last model waits for the model's check.
        self.awaits_check = False

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
        self.awaits_check = False
        head = self._waiting.peek(id, running, self.max_running)
        if not isinstance(head, PreparedRequest) or len(model.engine) >= self.max_running:
            return None
        most = model.engine.longest_prompt
        if most is not None and len(head.context) > most:
            # It may be sliced if the check finds so.
            self.awaits_check = model.check is not None
            if self.awaits_check:
                return None
            self._waiting.remove([head.submit.id])
            return too_long(head, most, WHOLE_LIMIT)
        longest = self._max_length(model, head)
        if longest < (head.worst_case if head.is_bounded else head.least_tokens):
            self._waiting.remove([head.submit.id])
            return too_long(head, longest, MEMORY_LIMIT)
        head = dataclasses.replace(head, max_tokens=longest - len(head.prompt))
        kv = self._pool.account.kv[id]
        tokens = self._first_reservation(model, head)
        needed_bytes = kv.additional_bytes(head.submit.id, tokens)
        if self.closed or not self._pool.eviction.make_room(
            needed_bytes, self._waiting, head.received_at
        ):
            self._blocked_since.setdefault(id, self._clock())
            return None
        self._waiting.take(head)
        self._blocked_since.pop(id, None)
        kv.reserve(head.submit.id, tokens)
        guaranteed_tokens = tokens if head.preempted_for_memory else 0
        return dataclasses.replace(head, guaranteed_tokens=guaranteed_tokens)

    def extend(
        self, kv: KVReservations, prepared: PreparedRequest, tokens: int, *, shortest: bool = False
    ) -> bool:
        """Extend the reservation to `tokens` tokens and a stretch; False if that does not fit.

        The stretch is as long as the answer so far, or the `shortest` one.
        """
        id = prepared.submit.id
        stretch = RESERVATION_TOKENS if shortest else stretch_after(tokens - len(prepared.prompt))
        extended = min(tokens + stretch, prepared.worst_case)
        needed_bytes = kv.additional_bytes(id, extended)
        if not self._pool.eviction.make_room(needed_bytes, self._waiting, prepared.received_at):
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
        """Remove and reject this model's requests that are too old; those with tokens stay."""
        latest = self._clock() - self._wait_s
        waiting = [
            each
            for each in self._waiting.for_model(id)
            if not each.started and not has_tokens(each)
        ]
        expired = [p for p in waiting if p.received_at <= latest or self._pool.cannot_fit(id)]
        self._waiting.remove({p.submit.id for p in expired})
        reason = self._pool.explain_shortage(id)
        return [Rejected(p.submit.id, "insufficient_memory", reason) for p in expired]

    def _max_length(self, model: LoadedModel, prepared: PreparedRequest) -> int:
        """How many tokens of this request would fit if it ran alone."""
        available_bytes = self._pool.available_to(model.info.id)
        return model.engine.kv_cost.longest_within(available_bytes, prepared.worst_case)

    def _first_reservation(self, model: LoadedModel, prepared: PreparedRequest) -> int:
        """The tokens to reserve at admission."""
        if prepared.is_bounded:
            return prepared.worst_case
        tokens = len(prepared.context) + stretch_after(len(prepared.submit.resume))
        if prepared.preempted_for_memory:
            part_bytes = self._pool.available_to(model.info.id) // GUARANTEED_PART
            part = model.engine.kv_cost.longest_within(part_bytes, prepared.worst_case)
            tokens = max(tokens, part)
        return min(tokens, prepared.worst_case)


def has_tokens(waiting: Waiting) -> bool:
    """Whether a request resumes after tokens that were delivered."""
    return isinstance(waiting, PreparedRequest) and bool(waiting.submit.resume)


def stretch_after(answer_tokens: int) -> int:
    """How many further tokens an answer of this length reserves."""
    return max(answer_tokens, RESERVATION_TOKENS)


def too_long(prepared: PreparedRequest, longest: int, limit: str) -> Rejected:
    """The rejection of a request that is above a limit; it could have `longest` tokens."""
    clause = limit.format(longest=longest)
    error = context_length_exceeded(prepared.submit, len(prepared.prompt), longest, clause)
    return error.to_rejected(prepared.submit.id)
