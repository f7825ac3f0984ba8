"""Reservations of running requests: extended as answers grow, by preempting others if need be."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from worker.models.pool import ModelPool
from worker.scheduler.admission import Admission
from worker.scheduler.preemption.shortage import preempt_for_memory
from worker.scheduler.running import RunningRequest, in_order_of_arrival, list_holders


class Reservations:
    """The KV reservations of the `running` requests, by id; `preempt` queues one of them again."""

    def __init__(
        self,
        pool: ModelPool,
        admission: Admission,
        running: Mapping[int, RunningRequest],
        preempt: Callable[[int], None],
    ) -> None:
        self._pool = pool
        self._admission = admission
        self._running = running
        self._preempt = preempt

    def extend(self) -> None:
        """Reserve more memory for the answers that have used what is reserved, oldest first.

        Drafts get no memory of their own: they fit in what is reserved, or are shorter.
        """
        growing = [each for each in self._running.values() if self._must_grow(each)]
        for running in in_order_of_arrival(growing):
            # One that was preempted for an older one needs nothing now.
            if running.prepared.submit.id in self._running:
                self._extend_one(running)
                running.reserved = self._reserved(running)
        for running in self._running.values():
            if running.output.row.drafter is not None:
                running.output.row.room = running.reserved - running.length

    def _must_grow(self, running: RunningRequest) -> bool:
        if running.length < running.reserved:
            return False
        running.reserved = self._reserved(running)
        return running.reserved < min(running.length + 1, running.prepared.worst_case)

    def _reserved(self, running: RunningRequest) -> int:
        kv = self._pool.account.kv[running.model.info.id]
        return kv.reserved_tokens(running.prepared.submit.id)

    def _extend_one(self, running: RunningRequest) -> None:
        """Reserve more memory for this answer; preempt requests, or it, until it fits."""
        prepared, model = running.prepared, running.model.info.id
        kv, tokens = self._pool.account.kv[model], running.length + 1
        while not self._admission.extend(kv, prepared, tokens):
            id = preempt_for_memory(list_holders(self._running.values()), prepared.submit.id)
            is_newer_one = id != prepared.submit.id and self._running[id].model.info.id == model
            # Before it yields itself, or another model does, less must do.
            if not is_newer_one and self._admission.extend(kv, prepared, tokens, shortest=True):
                return
            self._preempt(id)
            if id == prepared.submit.id:
                return
