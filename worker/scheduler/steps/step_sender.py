"""What the service gets of the worker's steps, and when: text of quick steps is sent together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from protocol.deltas import merge_deltas
from protocol.events import Event, count_drafts
from protocol.messages import CommandResult, ModelsChanged, Step
from protocol.model_states import ModelState
from protocol.stats import Stats
from protocol.units import MS_PER_S
from worker.models.pool import ModelPool
from worker.scheduler.steps.memory_pressure import MemoryPressure


class PreparationTotals(Protocol):
    """What was prepared in some time."""

    @property
    def seconds(self) -> float: ...

    @property
    def nbytes(self) -> int: ...


class Preparation(Protocol):
    """The part of the preprocessor that is counted: its length is how many are prepared."""

    def __len__(self) -> int: ...

    def take_totals(self) -> PreparationTotals:
        """What was prepared since the last call."""


Send = Callable[[Step | ModelsChanged | CommandResult], None]
# Makes the events of the text that a request holds, by its id.
MakeText = Callable[[int], list[Event]]


class StepSender:
    """The events that are yet to be sent, and the statistics of the steps since the last message.

    Text is held back where the next step's is expected within `interval_s` of the last message:
    then both are one message, and one event of each stream. First tokens, ends, and all other
    events leave at once, and with them what is held back. Some of that is made only then.
    """

    def __init__(
        self,
        send: Send,
        pool: ModelPool,
        preprocessor: Preparation,
        memory: MemoryPressure,
        *,
        count: Callable[[], tuple[int, int]],
        interval_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._send = send
        self._pool = pool
        self._preprocessor = preprocessor
        self._memory = memory
        self._count = count
        self._interval_s = interval_s
        self._clock = clock
        self.events: list[Event] = []
        self.results: list[CommandResult] = []
        # Since the last message.
        self.preempted = self.recomputed_tokens = 0
        self._device_s = self._host_s = 0.0
        self._steps = self._step_sequences = 0
        # How many of the events may be held back, and over how many steps they are.
        self._held = self._held_steps = 0
        # What makes the text that a request holds, by its id.
        self._makers: dict[int, MakeText] = {}
        self._sent_at = clock()
        self._sent_states: list[ModelState] = pool.states()

    def add_text(self, events: list[Event]) -> None:
        """Events of one token that may be held back."""
        self.events += events
        self._held += len(events)

    def hold(self, id: int, make: MakeText) -> None:
        """A request has text that may be held back, and that this makes."""
        self._makers[id] = make

    @property
    def has_events(self) -> bool:
        """Whether there is anything to send."""
        return bool(self.events or self._makers)

    def end_step(self, started_at: float, device_s: float) -> None:
        """Send what the step brought, or hold it back; it began at `started_at`.

        The device took `device_s` of it.
        """
        now = self._clock()
        self._device_s += device_s
        self._host_s += now - started_at - device_s
        if device_s:
            self._steps += 1
            self._step_sequences += self._count()[0]
        self._held_steps += 1
        if self._is_due(now, now - started_at):
            self._send_states()
            self._make_texts()
            made_at = self._clock()
            self._host_s += made_at - now
            self._send_events(made_at)

    def _make_texts(self) -> None:
        """Make the text that requests hold."""
        makers, self._makers = self._makers, {}
        for id, make in makers.items():
            events = make(id)
            self.events += events
            self._held += len(events)

    def _send_states(self) -> None:
        states = self._pool.states()
        if states != self._sent_states:
            self._sent_states = states
            self._send(ModelsChanged(states))
        # After the states, so that the reader of a result already has the states it caused.
        for result in self.results:
            self._send(result)
        self.results.clear()

    def _is_due(self, now: float, step_s: float) -> bool:
        """Whether the events leave now, where the next step takes as long as this one."""
        if not self.has_events or self.results or self._has_urgent:
            return True
        return now + step_s - self._sent_at > self._interval_s

    @property
    def _has_urgent(self) -> bool:
        """Whether there are events that may not be held back."""
        return len(self.events) != self._held

    def send_urgent(self) -> None:
        """Send what must not wait for the device step, and with it what is held back."""
        if self._has_urgent:
            self._send_events(self._clock())

    def send_all(self) -> None:
        """Send all events, before a device call that may take long."""
        if self.has_events:
            self._send_events(self._clock())

    def _send_events(self, now: float) -> None:
        self._make_texts()
        events, self.events = self.events, []
        if self._held_steps > 1:
            events = merge_deltas(events)
        self._held = self._held_steps = 0
        self._sent_at = now
        preparation = self._preprocessor.take_totals()
        preparing = len(self._preprocessor)
        running, waiting = self._count()
        accepted_tokens, rejected_tokens = count_drafts(events)
        stats = Stats(
            running=running,
            waiting=waiting + preparing,
            memory=self._memory.memory,
            device_ms=self._device_s * MS_PER_S,
            host_ms=self._host_s * MS_PER_S,
            steps=self._steps,
            step_sequences=self._step_sequences,
            preparing=preparing,
            preparation_ms=preparation.seconds * MS_PER_S,
            preparation_bytes=preparation.nbytes,
            preempted=self.preempted,
            recomputed_tokens=self.recomputed_tokens,
            accepted_tokens=accepted_tokens,
            rejected_tokens=rejected_tokens,
            drafts=self._pool.take_drafted(),
        )
        self.preempted = self.recomputed_tokens = self._steps = self._step_sequences = 0
        self._device_s = self._host_s = 0.0
        self._send(Step(events, stats))
