"""The requests in flight: opened, fed by the worker's steps, resumed after its death.

For every sequence the service holds its `Submit` and the token ids received so
far. A new worker gets both back and goes on where the last one stopped, so a
crash is a pause: the handler sees no event of it. `revival` says which go back,
and which of them to blame.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec

from protocol.messages import (
    Cancel,
    Event,
    Failed,
    Finished,
    PromptLogprobs,
    Rejected,
    Started,
    Step,
    Submit,
    TextDelta,
    ToWorker,
)
from service.errors import (
    MlxdError,
    Overloaded,
    WorkerCrashed,
    WorkerUnavailable,
)
from service.inflight.crash_policy import CrashPolicy
from service.inflight.request import InflightRequest
from service.inflight.sequence import InflightSequence
from service.supervision.supervisor import Status

logger = logging.getLogger(__name__)


class Worker(Protocol):
    """What the registry needs of the worker's side."""

    @property
    def status(self) -> Status: ...

    @property
    def failure(self) -> str | None: ...

    @property
    def max_running(self) -> int: ...

    def send(self, message: ToWorker) -> None: ...

    async def wait_loaded(self, timeout_s: float) -> None: ...


class RequestRegistry:
    """All sequences in flight, by id. Told by the supervisor what the worker does."""

    def __init__(
        self, worker: Worker, *, max_in_flight: int, load_wait_s: float, queue_timeout_s: float
    ) -> None:
        self._worker = worker
        self._max_in_flight = max_in_flight
        self._load_wait_s = load_wait_s
        self._queue_timeout_s = queue_timeout_s
        self._ids = itertools.count(1)
        self._sequences: dict[int, InflightSequence] = {}
        self._by_attempt_id: dict[int, InflightSequence] = {}
        self._crash_policy = CrashPolicy()
        self._taking = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sequences)

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    async def wait_busy(self) -> None:
        """Wait until something is in flight."""
        await self._busy.wait()

    async def open(self, submits: Sequence[Submit]) -> InflightRequest:
        """Send the sequences of one request to the worker; their ids are given here.

        While the first worker loads, this waits for it as long as it may.

        Raises:
            Overloaded: as many are in flight as may be.
            WorkerUnavailable: the worker takes no requests now.
        """
        if self._worker.status == "loading" and self._load_wait_s:
            await self._worker.wait_loaded(self._load_wait_s)
        self._admit(len(submits))
        ids = [next(self._ids) for _ in submits]
        request = InflightRequest(self.forget, ids[0], len(ids))
        for id, submit in zip(ids, submits, strict=True):
            sequence = InflightSequence(msgspec.structs.replace(submit, id=id), request.collector)
            self._sequences[id] = self._by_attempt_id[id] = sequence
            self._await_device(sequence)
            self._crash_policy.join(id, submit.model)
        self._idle.clear()
        self._busy.set()
        self._sync_worker()
        return request

    def forget(self, ids: Sequence[int]) -> None:
        """Drop these sequences here and in the worker."""
        known = [sequence.attempt_id for id in ids if (sequence := self._pop(id))]
        if known:
            self._worker.send(Cancel(known))
            self._sync_worker()

    def fail_all(self, error: MlxdError) -> None:
        """End every request with `error`."""
        for sequence in list(self._sequences.values()):
            sequence.collector.close(error)
        self.forget(list(self._sequences))

    # ------------------------------------------------------------ what the supervisor tells

    @property
    def busy(self) -> bool:
        """Whether the worker has anything to do."""
        return self._crash_policy.busy

    def worker_stepped(self, step: Step) -> int:
        """Hand each event to its request; returns how many tokens were generated.

        An event whose request is gone is dropped.
        """
        tokens = 0
        for event in step.events:
            if isinstance(event, TextDelta):
                tokens += len(event.tokens)
            sequence = self._by_attempt_id.get(event.id)
            if sequence is not None:
                if event.id != sequence.id:
                    event = msgspec.structs.replace(event, id=sequence.id)
                self._deliver(sequence, event)
        return tokens

    def worker_ready(self) -> None:
        """Give a new worker what is in flight."""
        if self._sequences:
            logger.warning("resuming %d sequences on a new worker", len(self._sequences))
        self._taking = True
        self._sync_worker()

    def worker_lost(self) -> bool:
        """Keep what is in flight for the next worker; whether a request was found to be the cause.

        That one fails.
        """
        self._taking = False
        for sequence in self._sequences.values():
            self._await_device(sequence)
        blamed = self._crash_policy.lose(self._worker.max_running)
        for id in blamed:
            if (culprit := self._pop(id)) is not None:
                logger.error("request %d ended the worker by itself, and fails", id)
                message = "This request ended the worker each time it was tried."
                culprit.collector.close(WorkerCrashed(message))
        if (suspect := self._crash_policy.isolated) is not None:
            logger.warning("trying the suspects one at a time, %d first", suspect)
        return bool(blamed)

    def worker_given_up(self, reason: str) -> None:
        """Workers die too often for a request to wait for the next one."""
        self.fail_all(WorkerUnavailable(reason, code="failed"))

    def _sync_worker(self) -> None:
        """Bring what the worker has in line with what it is to have."""
        if not self._taking:
            return
        change = self._crash_policy.change()
        if change.take:
            taken = [self._sequences[id] for id in change.take]
            self._worker.send(Cancel([sequence.attempt_id for sequence in taken]))
            for sequence in taken:
                self._rename(sequence)
                self._await_device(sequence)
        for id in change.give:
            self._worker.send(self._sequences[id].resumed())

    def _rename(self, sequence: InflightSequence) -> None:
        del self._by_attempt_id[sequence.attempt_id]
        sequence.attempt_id = next(self._ids)
        self._by_attempt_id[sequence.attempt_id] = sequence

    def _deliver(self, sequence: InflightSequence, event: Event) -> None:
        sequence.stop_waiting()
        if isinstance(event, Started):
            if sequence.started:
                return
            sequence.started = True
        if isinstance(event, PromptLogprobs):
            if sequence.scored:
                return
            sequence.scored = True
        # Before anything changes: a sequence that is taken back finds its event delivered.
        sequence.collector.put(event)
        match event:
            case TextDelta(_, _, tokens):
                sequence.tokens += tokens
                if self._crash_policy.advance(sequence.id, len(sequence.tokens)):
                    self._sync_worker()
            case Finished() | Rejected() | Failed():
                self._pop(sequence.id)
                self._sync_worker()

    def _pop(self, id: int) -> InflightSequence | None:
        sequence = self._sequences.pop(id, None)
        if sequence is not None:
            sequence.stop_waiting()
            del self._by_attempt_id[sequence.attempt_id]
            self._crash_policy.leave(id)
        if not self._sequences:
            self._idle.set()
            self._busy.clear()
        return sequence

    def _await_device(self, sequence: InflightSequence) -> None:
        sequence.wait(self._queue_timeout_s, lambda: self._expire(sequence))

    def _expire(self, sequence: InflightSequence) -> None:
        message = f"The request waited {self._queue_timeout_s:g} seconds for the device."
        sequence.collector.close(WorkerUnavailable(message, code="queue_timeout"))
        self.forget([sequence.id])

    def _admit(self, count: int) -> None:
        match self._worker.status:
            case "healthy" | "restarting":
                pass
            case status:
                reason = self._worker.failure or f"The service is {status}."
                raise WorkerUnavailable(reason, code=status)
        if len(self._sequences) + count > self._max_in_flight:
            raise Overloaded(
                f"{len(self._sequences)} requests are in flight, and no more may wait."
            )
