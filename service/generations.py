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
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

import msgspec

from protocol.messages import (
    Cancel,
    Delta,
    Event,
    Failed,
    Finished,
    PromptScored,
    Rejected,
    Started,
    Step,
    Submit,
    ToWorker,
)
from service.errors import (
    ClientDisconnected,
    GenerationFailed,
    InternalError,
    InvalidRequest,
    MlxdError,
    ModelLoadFailed,
    Overloaded,
    WorkerCrashed,
    WorkerUnavailable,
)
from service.mailbox import Mailbox
from service.quotas import Allowance
from service.residency import REFUSALS
from service.revival import Revival
from service.sequence import LiveSequence
from service.supervisor import Status

logger = logging.getLogger(__name__)

INTERNAL_ERROR = "internal_error"


class Worker(Protocol):
    """What generations need of the worker's side."""

    @property
    def status(self) -> Status: ...

    @property
    def failure(self) -> str | None: ...

    @property
    def max_running(self) -> int: ...

    def send(self, message: ToWorker) -> None: ...

    async def wait_loaded(self, timeout_s: float) -> None: ...


class Generation:
    """One HTTP request's sequences. Leaving the `async with` cancels what is unfinished."""

    def __init__(self, owner: Generations, first_id: int, count: int) -> None:
        self._owner = owner
        self._first_id = first_id
        self._unstarted = set(range(first_id, first_id + count))
        self._unfinished = set(self._unstarted)
        self._early: list[Event] = []
        self.fingerprint = ""
        self.mailbox = Mailbox()
        self.allowance: Allowance | None = None
        # Who is told of all events, before their reader gets them.
        self.observe: Callable[[list[Event]], None] = lambda events: None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def index(self, event: Event) -> int:
        """Which of the request's sequences this is an event of, from 0."""
        return event.id - self._first_id

    async def start(self) -> None:
        """Wait until every sequence was admitted, so that a refusal still is a status code.

        Raises:
            MlxdError: one was refused, or cannot be had now; nothing of the request is left.
        """
        try:
            while self._unstarted:
                self._early += self._checked(await self.mailbox.take())
        except BaseException:
            self.close()
            raise

    async def batches(self) -> AsyncIterator[list[Event]]:
        """The events as they come, all that are there at once; empty ones after a nudge.

        Raises:
            MlxdError: the generation failed, or the client left.
        """
        if self._early:
            early, self._early = self._early, []
            yield early
        while self._unfinished:
            yield self._checked(await self.mailbox.take())

    def abandon(self) -> None:
        """The client left: nothing more is generated for it."""
        self.close()
        self.mailbox.close(ClientDisconnected("The client left before its answer."))

    def close(self) -> None:
        """Cancel what is unfinished."""
        self._owner.forget(sorted(self._unfinished))

    def _checked(self, events: list[Event]) -> list[Event]:
        """Keep count of what started and finished; a failure of one sequence fails the request."""
        self.observe(events)
        for event in events:
            match event:
                case Started(id, prompt_tokens, _, _, fingerprint):
                    self.fingerprint = fingerprint
                    self._unstarted.discard(id)
                    self._spend(prompt_tokens)
                case Finished(id):
                    self._unfinished.discard(id)
                case Rejected(_, code, message, param):
                    raise refusal(code, message, param)
                case Failed(_, message):
                    raise GenerationFailed(message)
                case Delta(_, _, tokens):
                    self._spend(len(tokens))
                case PromptScored():
                    pass
        return events

    def _spend(self, tokens: int) -> None:
        if self.allowance is not None:
            self.allowance.spend(tokens)


class Generations:
    """All sequences in flight, by id. Told by the supervisor what the worker does."""

    def __init__(
        self, worker: Worker, *, max_in_flight: int, load_wait_s: float, queue_timeout_s: float
    ) -> None:
        self._worker = worker
        self._max_in_flight = max_in_flight
        self._load_wait_s = load_wait_s
        self._queue_timeout_s = queue_timeout_s
        self._ids = itertools.count(1)
        self._sequences: dict[int, LiveSequence] = {}
        self._by_wire_id: dict[int, LiveSequence] = {}
        self._revival = Revival()
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

    async def open(self, submits: Sequence[Submit]) -> Generation:
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
        generation = Generation(self, ids[0], len(ids))
        for id, submit in zip(ids, submits, strict=True):
            sequence = LiveSequence(msgspec.structs.replace(submit, id=id), generation.mailbox)
            self._sequences[id] = self._by_wire_id[id] = sequence
            self._await_device(sequence)
            self._revival.join(id, submit.model)
        self._idle.clear()
        self._busy.set()
        self._tell_changes()
        return generation

    def forget(self, ids: Sequence[int]) -> None:
        """Drop these sequences here and in the worker."""
        known = [sequence.wire_id for id in ids if (sequence := self._pop(id))]
        if known:
            self._worker.send(Cancel(known))
            self._tell_changes()

    def fail_all(self, error: MlxdError) -> None:
        """End every request with `error`."""
        for sequence in list(self._sequences.values()):
            sequence.mailbox.close(error)
        self.forget(list(self._sequences))

    # ------------------------------------------------------------ what the supervisor tells

    @property
    def busy(self) -> bool:
        """Whether the worker has anything to do."""
        return self._revival.busy

    def worker_stepped(self, step: Step) -> None:
        """Hand each event to its request. One whose request is gone is dropped."""
        for event in step.events:
            sequence = self._by_wire_id.get(event.id)
            if sequence is not None:
                if event.id != sequence.id:
                    event = msgspec.structs.replace(event, id=sequence.id)
                self._deliver(sequence, event)

    def worker_ready(self) -> None:
        """Give a new worker what is in flight."""
        if self._sequences:
            logger.warning("resuming %d sequences on a new worker", len(self._sequences))
        self._taking = True
        self._tell_changes()

    def worker_lost(self) -> bool:
        """Keep what is in flight for the next worker; whether a request was found to be the cause.

        That one fails.
        """
        self._taking = False
        for sequence in self._sequences.values():
            self._await_device(sequence)
        convicted = self._revival.lose(self._worker.max_running)
        for id in convicted:
            if (culprit := self._pop(id)) is not None:
                logger.error("request %d ended the worker by itself, and fails", id)
                message = "This request ended the worker each time it was tried."
                culprit.mailbox.close(WorkerCrashed(message))
        if (suspect := self._revival.on_trial) is not None:
            logger.warning("trying the suspects one at a time, %d first", suspect)
        return bool(convicted)

    def worker_given_up(self, reason: str) -> None:
        """Workers die too often for a request to wait for the next one."""
        self.fail_all(WorkerUnavailable(reason, code="failed"))

    def _tell_changes(self) -> None:
        """Bring what the worker has in line with what it is to have."""
        if not self._taking:
            return
        change = self._revival.change()
        if change.take:
            taken = [self._sequences[id] for id in change.take]
            self._worker.send(Cancel([sequence.wire_id for sequence in taken]))
            for sequence in taken:
                self._rename(sequence)
                self._await_device(sequence)
        for id in change.give:
            self._worker.send(self._sequences[id].resumed())

    def _rename(self, sequence: LiveSequence) -> None:
        del self._by_wire_id[sequence.wire_id]
        sequence.wire_id = next(self._ids)
        self._by_wire_id[sequence.wire_id] = sequence

    def _deliver(self, sequence: LiveSequence, event: Event) -> None:
        sequence.stop_waiting()
        if isinstance(event, Started):
            if sequence.started:
                return
            sequence.started = True
        if isinstance(event, PromptScored):
            if sequence.scored:
                return
            sequence.scored = True
        # Before anything changes: a sequence that is taken back finds its event delivered.
        sequence.mailbox.put(event)
        match event:
            case Delta(_, _, tokens):
                sequence.tokens += tokens
                if self._revival.advance(sequence.id, len(sequence.tokens)):
                    self._tell_changes()
            case Finished() | Rejected() | Failed():
                self._pop(sequence.id)
                self._tell_changes()

    def _pop(self, id: int) -> LiveSequence | None:
        sequence = self._sequences.pop(id, None)
        if sequence is not None:
            sequence.stop_waiting()
            del self._by_wire_id[sequence.wire_id]
            self._revival.leave(id)
        if not self._sequences:
            self._idle.set()
            self._busy.clear()
        return sequence

    def _await_device(self, sequence: LiveSequence) -> None:
        sequence.wait(self._queue_timeout_s, lambda: self._expire(sequence))

    def _expire(self, sequence: LiveSequence) -> None:
        message = f"The request waited {self._queue_timeout_s:g} seconds for the device."
        sequence.mailbox.close(WorkerUnavailable(message, code="queue_timeout"))
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


def refusal(code: str, message: str, param: str | None) -> MlxdError:
    """The error for a request that the worker would not take."""
    if code == INTERNAL_ERROR:
        return InternalError(message)
    if (kind := REFUSALS.get(code)) is not None:
        return kind(message, param=param) if kind is ModelLoadFailed else kind(message)
    return InvalidRequest(message, param=param, code=code)
