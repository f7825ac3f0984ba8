"""Requests in flight: opened, fed with events, cancelled, and resumed after a worker crash.

For every sequence the service holds its `Submit` and the token ids received so far. A new
worker gets both and continues where the last one stopped, so a crash is a pause: the
handler sees no event of it. `CrashPolicy` decides which sequences are resumed, and which
request is blamed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from protocol.events import (
    Event,
    Failed,
    Finished,
    Progress,
    PromptLogprobs,
    Rejected,
    Started,
    TextDelta,
    Tokenized,
)
from protocol.messages import Cancel, RenameClient, Request, Step, ToWorker
from protocol.tokenization import Tokenize
from service.errors import (
    MlxdError,
    Overloaded,
    WorkerCrashed,
    WorkerUnavailable,
)
from service.inflight.blamed_requests import BlamedRequests
from service.inflight.crash_policy import CrashPolicy
from service.inflight.output_collector import OutputCollector
from service.inflight.request import InflightRequest
from service.inflight.sequence import InflightSequence, to_submits
from service.inflight.shares import PlacesInFlight
from service.schema.health import HealthStatus

logger = logging.getLogger(__name__)


class Worker(Protocol):
    """The part of the supervisor that the registry uses."""

    @property
    def status(self) -> HealthStatus: ...

    @property
    def failure(self) -> str | None: ...

    @property
    def max_running(self) -> int: ...

    def send(self, message: ToWorker) -> None: ...

    async def wait_loaded(self, timeout_s: float) -> None: ...


class RequestRegistry:
    """All sequences in flight, by id. It observes the worker through the supervisor."""

    def __init__(
        self,
        worker: Worker,
        *,
        max_in_flight: int,
        load_wait_s: float,
        queue_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._clock = clock
        self._places = PlacesInFlight(max_in_flight)
        self._load_wait_s = load_wait_s
        self._queue_timeout_s = queue_timeout_s
        self._ids = itertools.count(1)
        self._sequences: dict[int, InflightSequence] = {}
        self._by_attempt_id: dict[int, InflightSequence] = {}
        # Those that have got events of the message that is being handled.
        self._undelivered: list[OutputCollector] = []
        self._crash_policy = CrashPolicy()
        self._blamed = BlamedRequests()
        self._has_worker = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sequences)

    def rename_client(self, former: str, client: str) -> None:
        """The requests of a client are those of another one, as it turns out."""
        if renamed := self._places.rename(former, client):
            for id in renamed:
                sequence = self._sequences[id]
                sequence.submit = msgspec.structs.replace(sequence.submit, client=client)
            self._worker.send(RenameClient(former, client))

    def list_oldest(self, count: int) -> list[InflightSequence]:
        """The oldest sequences in flight, at most `count`."""
        return list(itertools.islice(self._sequences.values(), count))

    async def wait_idle(self) -> None:
        """Wait until no sequence is in flight."""
        await self._idle.wait()

    async def wait_busy(self) -> None:
        """Wait until a sequence is in flight."""
        await self._busy.wait()

    async def wait_loaded(self) -> None:
        """While the first worker loads, wait for it for up to `load_wait_s`."""
        if self._worker.status == "loading" and self._load_wait_s:
            await self._worker.wait_loaded(self._load_wait_s)

    async def open(
        self, submits: Sequence[Request], client: str = "", owner: str = ""
    ) -> InflightRequest:
        """Assign ids to the sequences of one request and submit them to the worker.

        `client` is whose request it is, as it is named now. `owner` is its API key: what it has
        asked for may have killed workers.

        Raises:
            InvalidRequest: the owner's same request killed workers a short time ago.
            Overloaded: the limit of sequences in flight is reached, or the client's share.
            WorkerUnavailable: the service accepts no requests now.
        """
        self._blamed.refuse_known(owner, submits)
        self._check_admission(len(submits), client)
        ids = [next(self._ids) for _ in submits]
        now = self._clock()
        request = InflightRequest(self.cancel, ids[0], len(ids))
        for id, submit in zip(ids, submits, strict=True):
            own = msgspec.structs.replace(submit, id=id, client=client)
            sequence = InflightSequence(own, request.collector, owner, now=now)
            self._sequences[id] = self._by_attempt_id[id] = sequence
            self._start_queue_timer(sequence)
            self._crash_policy.add(id, submit.model)
        self._places.add(client, ids)
        self._idle.clear()
        self._busy.set()
        try:
            self._sync_worker(now)
        except BaseException:
            # It cannot be sent; else it would keep its places for ever.
            self.cancel(ids)
            raise
        return request

    def cancel(self, ids: Sequence[int]) -> None:
        """Drop these sequences here and in the worker; unknown ids are ignored."""
        attempt_ids = [sequence.attempt_id for id in ids if (sequence := self._remove(id))]
        if attempt_ids:
            self._worker.send(Cancel(attempt_ids))
            self._sync_worker()

    def fail_all(self, error: MlxdError) -> None:
        """End every request with `error`."""
        for sequence in list(self._sequences.values()):
            sequence.collector.close(error)
        self.cancel(list(self._sequences))

    # ------------------------------------------------------------ called by the supervisor

    @property
    def busy(self) -> bool:
        """Whether the worker has any sequence."""
        return self._crash_policy.busy

    def worker_stepped(self, step: Step) -> int:
        """Pass each event to its request; returns the number of generated tokens.

        An event of a sequence that is no longer in flight is dropped. The worker's sequences
        change only after the last event: a sequence that is withdrawn after its last token
        must not lose its `Finished`, which is in the same step.
        """
        tokens = 0
        changed = False
        for event in step.events:
            if isinstance(event, TextDelta):
                tokens += len(event.tokens)
            changed |= self._receive(event)
        if changed:
            self._sync_worker()
        self._deliver_all()
        return tokens

    def worker_tokenized(self, result: Tokenized | Rejected) -> None:
        """Pass the result of a request for the tokenizer to it."""
        if self._receive(result):
            self._sync_worker()
        self._deliver_all()

    def worker_ready(self) -> None:
        """Submit all sequences in flight to a new worker."""
        if self._sequences:
            logger.warning("resuming %d sequences on a new worker", len(self._sequences))
        self._has_worker = True
        self._sync_worker()

    def worker_lost(self, *, blameless: bool = False) -> bool:
        """Keep the sequences in flight for the next worker; whether a request was blamed.

        A blamed request fails. With `blameless` none is: it is known that none has caused it.
        """
        self._has_worker = False
        now = self._clock()
        for sequence in self._sequences.values():
            sequence.attempts.withdraw(now)
            self._start_queue_timer(sequence)
        if blameless:
            self._crash_policy.record_blameless_loss()
            return False
        blamed = self._crash_policy.record_crash(self._worker.max_running)
        for id in blamed:
            if (crashing := self._remove(id)) is not None:
                logger.error("request %d crashed the worker while running alone; it fails", id)
                message = "This request crashed the worker each time it ran."
                crashing.collector.close(WorkerCrashed(message))
                self._blamed.add(crashing.owner, crashing.submit)
        if (isolated := self._crash_policy.isolated) is not None:
            logger.warning("running the suspected requests one at a time, %d first", isolated)
        return bool(blamed)

    def worker_given_up(self, reason: str) -> None:
        """Fail all requests: workers crash too often for a request to wait for the next one."""
        self.fail_all(WorkerUnavailable(reason, code="failed"))

    def _sync_worker(self, now: float | None = None) -> None:
        """Cancel and submit sequences so that the worker has those that it should have."""
        if not self._has_worker:
            return
        changes = self._crash_policy.take_changes()
        now = self._clock() if now is None else now
        if changes.cancel:
            cancelled = [self._sequences[id] for id in changes.cancel]
            self._worker.send(Cancel([sequence.attempt_id for sequence in cancelled]))
            for sequence in cancelled:
                sequence.attempts.withdraw(now)
                self._renew_attempt_id(sequence)
                self._start_queue_timer(sequence)
        for sequence in (submitted := [self._sequences[id] for id in changes.submit]):
            sequence.attempts.submit(now)
        for submit in to_submits(submitted):
            self._worker.send(submit)

    def _renew_attempt_id(self, sequence: InflightSequence) -> None:
        del self._by_attempt_id[sequence.attempt_id]
        sequence.attempt_id = next(self._ids)
        self._by_attempt_id[sequence.attempt_id] = sequence

    def _receive(self, event: Event) -> bool:
        """Pass one event to its request, if that is in flight; see `_deliver`."""
        sequence = self._by_attempt_id.get(event.id)
        if sequence is None:
            return False
        if event.id != sequence.id:
            event = msgspec.structs.replace(event, id=sequence.id)
        return self._deliver(sequence, event)

    def _deliver(self, sequence: InflightSequence, event: Event) -> bool:
        """Pass one event to the handler; whether the worker's sequences may have to change.

        A resumed sequence repeats its first events: they are dropped.
        """
        sequence.stop_queue_timer()
        match event:
            case TextDelta():
                self._collect(sequence.collector, event)
                sequence.add_tokens(event, self._clock)
                return self._crash_policy.record_progress(sequence.id, len(sequence.tokens))
            case Progress():
                # That the worker lives, pings show.
                if sequence.advance(event):
                    self._collect(sequence.collector, event)
                return False
            case Started():
                sequence.attempts.start(event, self._clock())
                self._crash_policy.record_started(sequence.id)
                is_repeated, sequence.started = sequence.started, True
                if is_repeated:
                    return False
                self._places.start(sequence.id)
            case PromptLogprobs():
                is_repeated, sequence.has_prompt_logprobs = sequence.has_prompt_logprobs, True
                if is_repeated:
                    return False
            case Finished():
                event = sequence.attempts.complete(event)
        self._collect(sequence.collector, event)
        ends = isinstance(event, Finished | Rejected | Failed | Tokenized)
        if ends:
            self._remove(sequence.id)
        return ends

    def _collect(self, collector: OutputCollector, event: Event) -> None:
        if collector.add(event):
            self._undelivered.append(collector)

    def _deliver_all(self) -> None:
        """Let the handlers have what the message has brought, all of it at once."""
        collectors, self._undelivered = self._undelivered, []
        for collector in collectors:
            collector.deliver()

    def _remove(self, id: int) -> InflightSequence | None:
        sequence = self._sequences.pop(id, None)
        if sequence is not None:
            sequence.stop_queue_timer()
            del self._by_attempt_id[sequence.attempt_id]
            self._crash_policy.remove(id)
            self._places.remove(id)
        if not self._sequences:
            self._idle.set()
            self._busy.clear()
        return sequence

    def _start_queue_timer(self, sequence: InflightSequence) -> None:
        sequence.start_queue_timer(self._queue_timeout_s, lambda: self._time_out(sequence))

    def _time_out(self, sequence: InflightSequence) -> None:
        waited_for = "tokenizer" if isinstance(sequence.submit, Tokenize) else "device"
        message = f"The request waited {self._queue_timeout_s:g} seconds for the {waited_for}."
        sequence.collector.close(WorkerUnavailable(message, code="queue_timeout"))
        self.cancel([sequence.id])

    def _check_admission(self, count: int, client: str) -> None:
        match self._worker.status:
            case "healthy" | "restarting":
                pass
            case status:
                reason = self._worker.failure or f"The service is {status}."
                raise WorkerUnavailable(reason, code=status)
        if self._places.is_above_share(client, count):
            raise Overloaded("Others wait, and your requests in flight are half of all.")
        refused = self._places.refuse_for_shares(client, count)
        if refused is None:
            raise Overloaded(
                f"{len(self._sequences)} requests are in flight, and no more can wait."
            )
        for request in refused:
            message = "Others wait, and your requests in flight were more than half of all."
            self._sequences[request.ids[0]].collector.close(Overloaded(message))
            self.cancel(list(request.ids))
