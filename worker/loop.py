"""The worker's loop: receive, admit, step, emit. It alone drives the device."""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable

from protocol.messages import (
    Cancel,
    ChatPrompt,
    Delta,
    Event,
    Failed,
    Limit,
    Memory,
    Rejected,
    Shutdown,
    Stats,
    Step,
)
from worker.engine import Token
from worker.intake import Inbox, Prepared, Work
from worker.pool import Pool, ResidentModel
from worker.sequence import MS_PER_S, Sequence
from worker.text import Text

logger = logging.getLogger(__name__)


class Loop:
    """Runs until a `Shutdown` comes. Requests of one model are served first come, first served."""

    def __init__(
        self,
        pool: Pool,
        inbox: Inbox,
        emit: Callable[[Step], None],
        measure_memory: Callable[[], Memory],
        max_running: int,
    ) -> None:
        self._pool = pool
        self._inbox = inbox
        self._send = emit
        self._measure_memory = measure_memory
        self._max_running = max_running
        self._waiting: dict[str, deque[Sequence]] = {model.info.id: deque() for model in pool}
        self._running: dict[int, Sequence] = {}
        self._events: list[Event] = []
        self._device_ms = 0.0

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            RuntimeError: the device failed.
        """
        while self._receive():
            began = time.monotonic()
            self._admit()
            self._step()
            self._emit(began)

    def _receive(self) -> bool:
        """Take all that has come; wait for something when there is nothing to do."""
        try:
            work = self._inbox.get(block=self._idle)
            while self._accept(work):
                work = self._inbox.get_nowait()
            return False
        except queue.Empty:
            return True

    @property
    def _idle(self) -> bool:
        return not (self._running or self._events or any(self._waiting.values()))

    def _accept(self, work: Work) -> bool:
        """Take one piece of work; False when it is the last."""
        match work:
            case Prepared():
                self._enqueue(work)
            case Rejected():
                self._events.append(work)
            case Cancel(ids):
                self._cancel(set(ids))
            case Limit(max_running):
                self._max_running = max_running
            case Shutdown():
                return False
        return True

    def _enqueue(self, prepared: Prepared) -> None:
        submit = prepared.submit
        try:
            self._waiting[submit.model].append(self._make_sequence(prepared))
        except Exception:
            # A fault in one request's text or sampling must not end the others.
            logger.exception("request %d could not be queued", submit.id)
            message = "The request could not be queued."
            self._events.append(Rejected(submit.id, "internal_error", message))

    def _make_sequence(self, prepared: Prepared) -> Sequence:
        submit = prepared.submit
        model = self._pool[submit.model]
        begins_turn = isinstance(submit.prompt, ChatPrompt)
        return Sequence(
            submit,
            prompt=prepared.prompt,
            max_tokens=prepared.max_tokens,
            echo=prepared.echo,
            row=model.samplers.row(submit.sampling, position=len(submit.resume)),
            text=Text(model.detokenizers(begins_turn), submit.stop),
            received_at=prepared.received_at,
        )

    def _cancel(self, ids: set[int]) -> None:
        for id in ids:
            self._running.pop(id, None)
        for model in self._pool:
            model.engine.remove(ids)
            waiting = self._waiting[model.info.id]
            self._waiting[model.info.id] = deque(s for s in waiting if s.id not in ids)

    def _admit(self) -> None:
        for model in self._pool:
            waiting = self._waiting[model.info.id]
            while waiting and len(model.engine) < self._max_running:
                self._start(model, waiting.popleft())

    def _start(self, model: ResidentModel, sequence: Sequence) -> None:
        model.engine.insert(sequence.id, sequence.context, sequence.tokens_left, sequence.row)
        self._running[sequence.id] = sequence
        self._events.append(sequence.start(time.monotonic()))

    def _step(self) -> None:
        self._device_ms = 0.0
        for model in self._pool:
            if len(model.engine):
                began = time.monotonic()
                tokens = model.engine.step()
                now = time.monotonic()
                self._device_ms += (now - began) * MS_PER_S
                for token in tokens:
                    self._advance(model, token, now)

    def _advance(self, model: ResidentModel, token: Token, now: float) -> None:
        try:
            events = self._running[token.id].accept(token.token, token.reason, now)
        except Exception as error:
            # One sequence's text must not end the others; the device is not involved.
            logger.exception("request %d failed", token.id)
            events = [Failed(token.id, f"The answer's text failed: {error}")]
        self._events += events
        if not isinstance(events[-1], Delta):
            del self._running[token.id]
            model.engine.remove([token.id])

    def _emit(self, began: float) -> None:
        events, self._events = self._events, []
        total_ms = (time.monotonic() - began) * MS_PER_S
        stats = Stats(
            running=len(self._running),
            waiting=sum(map(len, self._waiting.values())),
            memory=self._measure_memory(),
            device_ms=self._device_ms,
            host_ms=total_ms - self._device_ms,
        )
        self._send(Step(events, stats))
