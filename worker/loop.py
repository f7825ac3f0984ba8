"""The worker's loop: receive, load, admit, step, relieve, emit. It alone drives the device."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from typing import Protocol

from protocol.messages import (
    Cancel,
    Delta,
    Done,
    Event,
    Failed,
    Limit,
    Load,
    Models,
    ModelState,
    Pin,
    Rejected,
    Shutdown,
    Stats,
    Step,
    Unload,
)
from worker.admission import Admission, bounded
from worker.desk import MODEL_LOAD_FAILED, Desk, Opened, Prepared, Unreadable
from worker.engine import Token
from worker.intake import Work
from worker.line import Line
from worker.memory import Measure
from worker.orders import Orders
from worker.pool import Pool, ResidentModel
from worker.relief import Relief
from worker.running import Running
from worker.sequence import MS_PER_S, make_sequence

logger = logging.getLogger(__name__)

# How often one who waits for memory looks again, where nothing else would wake the loop.
TICK_S = 0.25


class Inbox(Protocol):
    """What the loop takes work from; `get` raises `queue.Empty`."""

    def get(self, block: bool = True, timeout: float | None = None) -> Work: ...


class Loop:
    """Runs until a `Shutdown` comes. Requests of one model are served first come, first served."""

    def __init__(
        self,
        pool: Pool,
        desk: Desk,
        inbox: Inbox,
        emit: Callable[[Step | Models | Done], None],
        measure_memory: Measure,
        max_running: int,
        *,
        memory_wait_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._inbox = inbox
        self._send = emit
        self._clock = clock
        self._line = Line()
        self._admission = Admission(
            pool, self._line, max_running=max_running, wait_s=memory_wait_s, clock=clock
        )
        self._answers: list[Done] = []
        self._orders = Orders(
            pool, self._line, desk, self._answers.append, wait_s=memory_wait_s, clock=clock
        )
        self._relief = Relief(pool, self._line, measure_memory)
        self._running: dict[int, Running] = {}
        self._events: list[Event] = []
        self._told: list[ModelState] = pool.states()
        self._device_ms = 0.0
        pool.on_drop = desk.close

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            RuntimeError: the device failed.
        """
        while self._receive():
            began = self._clock()
            self._load()
            self._admit()
            self._step()
            self._relieve()
            self._emit(began)

    # ------------------------------------------------------------ receive

    def _receive(self) -> bool:
        """Take all that has come; wait for something when there is nothing to do."""
        try:
            work = self._inbox.get(block=not self._busy, timeout=self._patience())
            while self._accept(work):
                work = self._inbox.get(block=False)
            return False
        except queue.Empty:
            return True

    @property
    def _busy(self) -> bool:
        return bool(self._running or self._events or self._pool.loading)

    def _patience(self) -> float | None:
        """How long to wait for work before looking whether something has become due."""
        if self._line or len(self._orders):
            return TICK_S
        due = self._pool.next_idle_at()
        return None if due is None else max(0.0, due - self._clock())

    def _accept(self, work: Work) -> bool:
        """Take one piece of work; False when it is the last."""
        match work:
            case Prepared():
                self._enqueue(work)
            case Rejected():
                self._events.append(work)
            case Cancel(ids):
                self._cancel(ids)
            case Limit(max_running):
                self._admission.max_running = max_running
            case Opened(blueprint):
                self._pool.want(blueprint)
            case Unreadable(model, reason):
                self._pool.fail(model, reason)
                self._orders.end_load(model, MODEL_LOAD_FAILED, reason)
            case Load() | Unload() | Pin():
                self._orders.take(work)
            case Shutdown():
                return False
        return True

    def _enqueue(self, prepared: Prepared) -> None:
        id, model = prepared.submit.id, prepared.submit.model
        if (reason := self._pool.failure_of(model)) is not None:
            self._events.append(Rejected(id, MODEL_LOAD_FAILED, reason, "model"))
            return
        self._line.join(prepared)
        self._pool.want(prepared.blueprint)

    def _cancel(self, ids: list[int]) -> None:
        self._line.remove(ids)
        for id in ids:
            if (running := self._running.pop(id, None)) is not None:
                self._remove(running.model, id)

    def _remove(self, model: ResidentModel, id: int) -> None:
        model.engine.remove([id])
        self._pool.ledger.rows[model.info.id].drop([id])
        self._pool.touch(model.info.id)

    # ------------------------------------------------------------ load

    def _load(self) -> None:
        """Read one slice of what is being loaded, and give up on what waited too long."""
        ended = self._pool.advance(self._line, may_begin=not self._admission.closed)
        if ended is not None:
            self._end_load(ended.model, ended.reason)
        self._admission.watch()
        self._events += self._admission.expire()
        self._orders.expire()
        self._pool.forget_unwanted(lambda id: self._line.head(id) or id in self._orders)
        self._pool.unload_idle(self._line)

    def _end_load(self, model: str, reason: str | None) -> None:
        if reason is None:
            self._orders.end_load(model)
            return
        self._orders.end_load(model, MODEL_LOAD_FAILED, reason)
        waiting = [prepared.submit.id for prepared in self._line.all_for(model)]
        self._line.remove(waiting)
        self._events += [Rejected(id, MODEL_LOAD_FAILED, reason, "model") for id in waiting]

    # ------------------------------------------------------------ admit

    def _admit(self) -> None:
        for model in self._pool:
            while (admitted := self._admission.next(model)) is not None:
                if isinstance(admitted, Rejected):
                    self._events.append(admitted)
                else:
                    self._start(model, admitted)

    def _start(self, model: ResidentModel, prepared: Prepared) -> None:
        id = prepared.submit.id
        try:
            sequence = make_sequence(model, prepared)
        except Exception:
            # A fault in one request's text or sampling must not end the others.
            logger.exception("request %d could not be started", id)
            self._pool.ledger.rows[model.info.id].drop([id])
            message = "The request could not be started."
            self._events.append(Rejected(id, "internal_error", message))
            return
        cached_tokens = model.engine.insert(
            id, sequence.context, sequence.tokens_left, sequence.row, prepared.borders
        )
        self._running[id] = Running(model, prepared, sequence)
        if not prepared.started:
            self._events.append(sequence.start(self._clock(), cached_tokens))

    # ------------------------------------------------------------ step

    def _step(self) -> None:
        """One step of every model that has something to do, each in its turn."""
        self._device_ms = 0.0
        self._stretch()
        for model in self._pool:
            if len(model.engine):
                began = self._clock()
                tokens = model.engine.step()
                now = self._clock()
                self._device_ms += (now - began) * MS_PER_S
                self._pool.touch(model.info.id)
                for token in tokens:
                    self._advance(model, token, now)

    def _advance(self, model: ResidentModel, token: Token, now: float) -> None:
        events = self._events_of(token, now)
        self._events += events
        if not isinstance(events[-1], Delta):
            del self._running[token.id]
            self._remove(model, token.id)

    def _events_of(self, token: Token, now: float) -> list[Event]:
        """What the token means; one sequence's fault must not end the others."""
        if token.fault is not None:
            return [Failed(token.id, f"The answer failed: {token.fault}")]
        try:
            return self._running[token.id].accept(token, now)
        except Exception as error:
            logger.exception("request %d failed", token.id)
            return [Failed(token.id, f"The answer's text failed: {error}")]

    def _stretch(self) -> None:
        """Promise answers of no set length what they need next, or have them wait for it."""
        for id, running in list(self._running.items()):
            rows = self._pool.ledger.rows[running.model.info.id]
            prepared = running.prepared
            if bounded(prepared) or self._admission.extend(rows, prepared, running.length + 1):
                continue
            del self._running[id]
            self._remove(running.model, id)
            self._line.return_first(running.set_back())

    # ------------------------------------------------------------ relieve, emit

    def _relieve(self) -> None:
        """Keep what is in use below the budget's marks."""
        self._admission.closed = self._relief.relieve()

    def _emit(self, began: float) -> None:
        states = self._pool.states()
        if states != self._told:
            self._told = states
            self._send(Models(states))
        # After what they tell of: who is answered finds it so.
        for answer in self._answers:
            self._send(answer)
        self._answers.clear()
        events, self._events = self._events, []
        total_ms = (self._clock() - began) * MS_PER_S
        stats = Stats(
            running=len(self._running),
            waiting=len(self._line),
            memory=self._relief.memory,
            device_ms=self._device_ms,
            host_ms=total_ms - self._device_ms,
        )
        self._send(Step(events, stats))
