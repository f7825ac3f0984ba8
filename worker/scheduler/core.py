"""The engine core: receive, load, admit, step, check memory, send. It alone drives the device."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from functools import partial

from protocol.events import Failed, Rejected
from protocol.messages import (
    Cancel,
    Load,
    Pin,
    RenameClient,
    SetMaxRunning,
    Shutdown,
    Unload,
)
from worker.engine.batches.model_errors import FailedRow
from worker.engine.engine import Token
from worker.intake.prepared import ModelOpened, ModelOpenFailed, PreparedRequest, RequestDeferred
from worker.intake.prepared_texts import PreparedEmbedding
from worker.intake.preprocessor import Preprocessor
from worker.intake.receiver import Work, WorkSource
from worker.memory.budget import Measure
from worker.models.pool import ModelPool
from worker.models.weight_loader import LoadedModel
from worker.scheduler.admission import Admission
from worker.scheduler.client_names import ClientNames
from worker.scheduler.embedding_jobs import EmbeddingJobs
from worker.scheduler.model_commands import ModelCommands
from worker.scheduler.preemption.prefill_share import PrefillShare
from worker.scheduler.preemption.shares import preempt_for_shares
from worker.scheduler.reservations import Reservations
from worker.scheduler.running import (
    RunningRequest,
    count_clients,
    list_places,
    make_output_processor,
    preempt_rows,
    rows_of,
)
from worker.scheduler.steps.device_clock import DeviceClock
from worker.scheduler.steps.memory_pressure import MemoryPressure
from worker.scheduler.steps.output_texts import OutputTexts
from worker.scheduler.steps.step_sender import Send, StepSender
from worker.scheduler.waiting_queue import WaitingQueue
from worker.selfcheck.check_turns import CheckTurns

logger = logging.getLogger(__name__)

# How often the loop runs while requests wait or are prepared and no work arrives.
POLL_S = 0.25
# How long rows decode until loads, waiting requests and memory are looked at again, where nothing
# arrives or ends.
CHECK_INTERVAL_S = 0.016


class EngineCore:
    """Runs until it gets a `Shutdown`. Requests for one model are admitted in order of arrival."""

    def __init__(
        self,
        pool: ModelPool,
        preprocessor: Preprocessor,
        inbox: WorkSource,
        *,
        send: Send,
        measure_memory: Measure,
        max_running: int,
        memory_wait_s: float = 30.0,
        stream_interval_s: float = 0.0,
        device_clock: DeviceClock | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._preprocessor = preprocessor
        self._inbox = inbox
        self._device_clock = device_clock or DeviceClock()
        self._clock = clock
        self._waiting = WaitingQueue()
        self._admission = Admission(
            pool, self._waiting, max_running=max_running, wait_s=memory_wait_s, clock=clock
        )
        self._memory_pressure = MemoryPressure(pool, self._waiting, measure_memory, clock)
        self._running: dict[int, RunningRequest] = {}
        self._sender = StepSender(
            send,
            pool,
            preprocessor,
            self._memory_pressure,
            count=self._count,
            interval_s=stream_interval_s,
            clock=clock,
        )
        self._texts = OutputTexts(self._running, self._sender, self._end)
        report = self._sender.results.append
        self._commands = ModelCommands(
            pool, self._waiting, preprocessor, report, wait_s=memory_wait_s, clock=clock
        )
        preempt_rows_of = partial(preempt_rows, self._running, self._preempt)
        self._checks = CheckTurns(pool, preempt_rows_of, self._device_clock.begin, clock=clock)
        # When each model was loaded last; not those that were there from the start.
        self._loaded_at: dict[str, float] = {}
        share = self._prefill_share = PrefillShare(pool, self._running, clock)
        self._embeddings = EmbeddingJobs(pool, self._waiting, self._loaded_at, share, clock=clock)
        self._client_names = ClientNames(self._waiting, self._embeddings, self._running)
        self._reservations = Reservations(
            pool, self._admission, self._running, partial(self._preempt, for_memory=True)
        )
        # What the device took of the step that runs.
        self._device_s = 0.0
        # Whether work has arrived or a row has left since the last look at what may start.
        self._has_changed = True
        self._checked_at = clock()

    def run(self) -> None:
        """Serve until a `Shutdown` arrives.

        Raises:
            RuntimeError: the device failed.
        """
        while self._receive():
            started_at = self._clock()
            if is_due := self._is_check_due(started_at):
                self._load()
                self._admit()
                self._pool.squeeze()
            self._sender.send_urgent()
            self._step()
            if is_due:
                self._check_memory()
            self._sender.end_step(started_at, self._device_s)

    # ------------------------------------------------------------ receive

    def _receive(self) -> bool:
        """Handle all work in the inbox; wait for some if nothing runs. False on `Shutdown`."""
        self._device_clock.end()
        try:
            work = self._inbox.get(block=not self._busy, timeout=self._wait_timeout_s())
            self._device_clock.begin()
            while self._handle(work):
                work = self._inbox.get(block=False)
            return False
        except queue.Empty:
            return True

    @property
    def _busy(self) -> bool:
        return bool(self._running or self._sender.has_events or self._has_other_work)

    @property
    def _has_other_work(self) -> bool:
        """Whether there is work for the device beside rows that generate."""
        is_loading = self._pool.loads.current is not None or self._pool.has_checks
        return is_loading or len(self._embeddings) > 0

    def _is_check_due(self, now: float) -> bool:
        """Whether loads, waiting requests and memory are to be looked at before the next step."""
        has_changed, self._has_changed = self._has_changed, False
        is_due = has_changed or now - self._checked_at >= CHECK_INTERVAL_S
        if is_due or not self._running or self._has_other_work:
            self._checked_at = now
            return True
        return False

    def _wait_timeout_s(self) -> float | None:
        """How long to wait for work before memory waits and idle models are checked again."""
        if self._busy or self._waiting or len(self._commands) or len(self._preprocessor):
            return POLL_S
        next_at = (self._pool.eviction.next_idle_at(), self._memory_pressure.next_return_at())
        due = min((at for at in next_at if at is not None), default=None)
        return None if due is None else max(0.0, due - self._clock())

    def _handle(self, work: Work) -> bool:
        """Handle one piece of work; False on `Shutdown`."""
        self._has_changed = True
        match work:
            case PreparedRequest() | PreparedEmbedding():
                self._enqueue(work)
            case Rejected():
                self._sender.events.append(work)
            case RequestDeferred():
                pass
            case Cancel(ids):
                self._cancel(ids)
            case RenameClient(former, client):
                self._client_names.rename(former, client)
            case SetMaxRunning(max_running):
                self._admission.max_running = max_running
            case ModelOpened() | ModelOpenFailed() | Load() | Unload() | Pin():
                self._commands.execute(work)
            case Shutdown():
                return False
        return True

    def _enqueue(self, prepared: PreparedRequest | PreparedEmbedding) -> None:
        prepared = self._client_names.apply(prepared)
        id, model = prepared.submit.id, prepared.submit.model
        if (reason := self._pool.loads.failure_of(model)) is not None:
            self._sender.events.append(Rejected(id, "model_load_failed", reason, param="model"))
            return
        self._waiting.append(prepared)
        self._pool.request_load(prepared.config)

    def _cancel(self, ids: list[int]) -> None:
        self._waiting.remove(ids)
        self._embeddings.cancel(ids)
        for id in ids:
            if (running := self._running.pop(id, None)) is not None:
                self._release(running.model, id)

    def _release(self, model: LoadedModel, id: int) -> None:
        """Free the engine's row and the memory of a request that no longer runs."""
        self._has_changed = True
        model.engine.remove([id])
        self._pool.account.kv[model.info.id].release([id])
        self._pool.mark_used(model.info.id)

    # ------------------------------------------------------------ load

    def _load(self) -> None:
        """Read one slice of the model being loaded; reject requests that waited too long."""
        if self._has_other_work:
            self._sender.send_all()
        self._device_clock.begin(loading=self._pool.loads.current is not None)
        result = self._pool.advance_load(self._waiting, may_begin=not self._admission.closed)
        may_wait = not self._waiting or self._admission.awaits_check
        self._checks.advance(is_idle=not self._running and may_wait)
        if result is not None:
            self._finish_load(result.model, result.reason)
        self._admission.watch()
        self._sender.events += self._admission.expire()
        self._request_evicted()
        self._commands.expire()
        self._pool.loads.drop_unwanted(lambda id: self._waiting.peek(id) or id in self._commands)
        self._pool.eviction.unload_idle(self._waiting)

    def _request_evicted(self) -> None:
        """Request the models that were evicted for older requests than those that wait for them."""
        for id in self._waiting.models:
            if id not in self._pool and (head := self._waiting.peek(id)) is not None:
                self._pool.request_load(head.config)

    def _finish_load(self, model: str, reason: str | None) -> None:
        if reason is None:
            self._loaded_at[model] = self._clock()
            self._commands.finish_load(model)
            return
        self._commands.finish_load(model, "model_load_failed", reason)
        ids = [prepared.submit.id for prepared in self._waiting.for_model(model)]
        self._waiting.remove(ids)
        self._sender.events += [
            Rejected(id, "model_load_failed", reason, param="model") for id in ids
        ]

    # ------------------------------------------------------------ admit

    def _admit(self) -> None:
        """Start every waiting request that fits."""
        self._device_clock.begin()
        if not self._admission.closed:
            self._sender.events += self._embeddings.admit(self._admission.max_running)
        for model in self._pool:
            id = model.info.id
            # One admitted before may have evicted it.
            if id not in self._pool or self._waiting.peek(id) is None:
                continue
            self._preempt_for_shares(id)
            while admitted := self._admission.next(model, count_clients(id, self._running)):
                if isinstance(admitted, Rejected):
                    self._sender.events.append(admitted)
                else:
                    self._start(model, admitted)

    def _preempt_for_shares(self, id: str) -> None:
        """Preempt requests above shares for others; of all models where these wait for memory."""
        is_blocked = self._admission.is_blocked(id)
        running = list_places(self._running.values() if is_blocked else rows_of(id, self._running))
        places = len(running) if is_blocked else self._admission.max_running
        for victim in preempt_for_shares(running, self._waiting.waiting_of(id), places):
            self._preempt(victim)

    def _preempt(self, id: int, *, for_memory: bool = False, alone: bool = False) -> None:
        """Queue a running request again; its tokens are kept, its memory is freed."""
        if not self._texts.flush(id):
            return
        running = self._running.pop(id)
        self._release(running.model, id)
        self._waiting.push_front(running.preempt(self._clock(), for_memory=for_memory, alone=alone))
        self._sender.preempted += 1

    def _start(self, model: LoadedModel, prepared: PreparedRequest) -> None:
        id = prepared.submit.id
        try:
            output = make_output_processor(model, prepared)
        except Exception:
            # An error in one request's text or sampling must not end the others.
            logger.exception("request %d could not be started", id)
            self._pool.account.kv[model.info.id].release([id])
            self._sender.events.append(
                Rejected(id, "internal_error", "The request could not be started.")
            )
            return
        running = RunningRequest(model, prepared, output)
        breakpoints, alone = prepared.breakpoints, prepared.alone
        cached_tokens = model.engine.insert(
            id, prepared.context, running.tokens_left, output.row, breakpoints, alone=alone
        )
        self._sender.recomputed_tokens += max(prepared.computed_tokens - cached_tokens, 0)
        self._running[id] = running
        started = running.start(self._clock(), self._loaded_at.get(model.info.id))
        if not prepared.started:
            self._sender.events.append(started)

    # ------------------------------------------------------------ step

    def _step(self) -> None:
        """One device step of every model that has rows, and a slice of the texts for vectors."""
        self._device_s = 0.0
        self._reservations.extend()
        self._prefill_share.begin_step()
        for model in self._pool:
            if len(model.engine):
                share = self._prefill_share.of(model)
                if self._prefill_share.has_prompts:
                    # Of the models before this one: they do not wait for its slice.
                    self._sender.send_all()
                started_at = self._clock()
                tokens = model.engine.step(self._device_clock.begin, self._send_tokens, share)
                now = self._clock()
                self._prefill_share.charge(now - started_at - model.engine.decode_s)
                self._device_s += now - started_at
                self._pool.mark_used(model.info.id)
                for id, done, total in model.engine.progress:
                    self._sender.events.append(self._running[id].advance(done, total, now))
                for token in tokens:
                    self._texts.add(token, now)
                for row in model.engine.take_failed():
                    self._retry_alone(row)
        if len(self._embeddings):
            self._sender.send_all()
            started_at = self._clock()
            self._sender.events += self._embeddings.step(self._device_clock.begin)
            self._device_s += self._clock() - started_at

    def _send_tokens(self, tokens: list[Token]) -> None:
        """Send tokens while the device computes a slice of prompts."""
        started_at = self._clock()
        for token in tokens:
            self._texts.add(token, started_at)
        self._sender.send_all()
        self._device_s -= self._clock() - started_at

    def _retry_alone(self, row: FailedRow) -> None:
        """Queue a request again whose model failed beside others; the second time it fails."""
        if (running := self._running.get(row.id)) is None:
            return
        logger.error("request %d: its model failed", row.id, exc_info=row.error)
        if not running.prepared.alone:
            self._preempt(row.id, alone=True)
        elif self._texts.flush(row.id):
            self._end(row.id)
            self._sender.events.append(Failed(row.id, f"The model failed twice: {row.reason}"))

    def _end(self, id: int) -> None:
        """Free what a request holds whose answer has ended."""
        running = self._running.pop(id)
        self._release(running.model, id)

    # ------------------------------------------------------------ check memory, count

    def _check_memory(self) -> None:
        """Keep the memory in use below the soft limit."""
        self._admission.closed = self._memory_pressure.check()

    def _count(self) -> tuple[int, int]:
        """How many sequences run, and how many wait."""
        return len(self._running) + len(self._embeddings), len(self._waiting)
