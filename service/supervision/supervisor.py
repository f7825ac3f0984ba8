"""Keeps one worker running: spawn, loading, readiness, silence, death, back-off, stop.

Everything happens on the event loop. The supervisor knows no requests: it hands each
`Step` on, and tells when a worker became ready or was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from protocol.messages import (
    CommandResult,
    Configure,
    Fatal,
    Loading,
    ModelsChanged,
    Ready,
    SetMaxRunning,
    Shutdown,
    Stats,
    Step,
    ToService,
    ToWorker,
)
from service.supervision.available_memory import read_available
from service.supervision.exit_reason import LastExit, Phase, describe_exit, looks_like_memory
from service.supervision.model_states import ModelStates
from service.supervision.process import WorkerProcess
from service.supervision.restart_policy import RestartLimits, RestartPolicy
from service.supervision.stall_timer import StallTimer

logger = logging.getLogger(__name__)

STOP_GRACE_S = 2.0
LONGEST_TICK_S = 1.0
TICKS_A_LIMIT = 10
# How long a start waits for memory that its weights need, and how often it looks.
MEMORY_WAIT_S = 30.0
MEMORY_POLL_S = 0.5

Status = Literal["healthy", "loading", "restarting", "draining", "failed"]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long a worker may say nothing: while it loads, and while it has work to do."""

    load_timeout_s: float
    stall_s: float


class WorkerObserver(Protocol):
    """Who is told what the worker does."""

    @property
    def busy(self) -> bool:
        """Whether the worker has work, so that it must speak."""

    def worker_stepped(self, step: Step) -> int:
        """The worker took one step; returns how many tokens it generated."""

    def worker_ready(self) -> None:
        """A worker is loaded and takes requests; an earlier one's are its to resume."""

    def worker_lost(self) -> bool:
        """The worker died, with all that it had not finished; whether the cause was found."""

    def worker_given_up(self, reason: str) -> None:
        """Workers die too often: nothing should wait for the next one."""


class WorkerRun:
    """What is known of one worker, from its start to its end."""

    def __init__(self, worker: WorkerProcess, exited: asyncio.Future[int]) -> None:
        self.worker = worker
        self.exited = exited
        self.started_at = time.monotonic()
        self.ready_at: float | None = None
        # Since when it has been sound at what it is allowed now.
        self.sound_since = 0.0
        self.ready_s = 0.0
        self.silence = StallTimer(self.started_at)
        self.phase: Phase = "loading"
        self.last_words: str | None = None
        self.stalled: str | None = None
        self.lost = False
        self.explained = False

    @property
    def uptime_s(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.started_at


class Supervisor:
    """The state of the worker, and the task that keeps one alive."""

    def __init__(
        self,
        configure: Configure,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        timeouts: Timeouts,
        on_loading: Callable[[Loading], None],
        on_step: Callable[[Stats, int], None] = lambda stats, tokens: None,
        restart_limits: RestartLimits | None = None,
        available_bytes: Callable[[], int | None] = read_available,
    ) -> None:
        self._configure = configure
        self._command = command
        self._environ = environ
        self._timeouts = timeouts
        self._on_loading = on_loading
        self._on_step = on_step
        self._available_bytes = available_bytes
        self._restarts = RestartPolicy(restart_limits or RestartLimits(), configure.max_running)
        self._listener: WorkerObserver | None = None
        self._life: WorkerRun | None = None
        self.model_states = ModelStates(configure, self.send)
        self._stopping = asyncio.Event()
        self._weight_bytes = 0
        self.draining = False
        self.ready: Ready | None = None
        self.loaded_once = asyncio.Event()
        self.stats: Stats | None = None
        self.restarts = 0
        self.last_exit: LastExit | None = None
        self.failure: str | None = None

    @property
    def status(self) -> Status:
        """What `/health` says."""
        if self.draining:
            return "draining"
        if self.failure is not None:
            return "failed"
        if self.ready is not None:
            return "healthy"
        return "restarting" if self.loaded_once.is_set() else "loading"

    @property
    def pid(self) -> int | None:
        """The worker's process id, while there is one."""
        return self._life.worker.pid if self._life is not None else None

    @property
    def uptime_s(self) -> float:
        """How long this worker has run."""
        return self._life.uptime_s if self._life is not None else 0.0

    @property
    def max_running(self) -> int:
        """How many sequences of a model may be on the device at once now."""
        return self._restarts.max_running

    async def wait_loaded(self, timeout_s: float) -> None:
        """Wait for the first worker to be ready, for at most `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.loaded_once.wait(), timeout_s)

    def listen(self, listener: WorkerObserver) -> None:
        """Tell `listener` from now on."""
        self._listener = listener

    def send(self, message: ToWorker) -> None:
        """Pass a message to a worker that is ready. Before that it is dropped.

        A request sent while a worker loads would reach it twice: `worker_ready`
        has its listener send all that is in flight.
        """
        if self._life is not None and self.ready is not None:
            self._life.worker.send(message)

    async def run(self) -> None:
        """Keep a worker alive until `stop`. Returns early when none could ever be loaded."""
        while not self._stopping.is_set():
            await self._run_worker()
            if not self.loaded_once.is_set():
                return
            if await self._stopped_within(self._restarts.delay_s):
                return
            await self._wait_for_memory()
            self.restarts += 1

    async def stop(self) -> None:
        """End the worker: asked first, then told, then killed."""
        self._stopping.set()
        if (life := self._life) is not None:
            life.worker.send(Shutdown())
            if not await self._gone(life):
                await self._end(life)

    def kill(self) -> None:
        """End the worker at once, for a process that is about to end itself."""
        if self._life is not None:
            self._life.worker.kill()

    # ------------------------------------------------------------ one worker's life

    async def _run_worker(self) -> None:
        """One worker from start to exit."""
        exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        worker = WorkerProcess(
            self._command,
            self._environ,
            on_message=self._receive,
            on_closed=self._lose,
            on_exit=exited.set_result,
        )
        self._life = life = WorkerRun(worker, exited)
        worker.send(self.model_states.to_begin_with(self._configure))
        watch = asyncio.create_task(self._watch(life), name="worker-watch")
        try:
            self._note_exit(life, await exited)
        finally:
            watch.cancel()
            if not exited.done():
                worker.kill()

    def _receive(self, message: ToService) -> None:
        life = self._life
        if life is not None and isinstance(message, Fatal):
            life.last_words = message.message
        if life is None or life.lost:
            return
        life.silence.end(time.monotonic())
        match message:
            case Step():
                self.stats = message.stats
                tokens = self._tell().worker_stepped(message)
                self._on_step(message.stats, tokens)
            case ModelsChanged() | CommandResult():
                self.model_states.note(message)
            case Loading():
                self._on_loading(message)
            case Ready():
                self._welcome(life, message)

    def _welcome(self, life: WorkerRun, ready: Ready) -> None:
        """A worker has loaded: it gets what is in flight."""
        self.ready = ready
        self.stats = Stats(running=0, waiting=0, memory=ready.memory, device_ms=0.0, host_ms=0.0)
        self.failure = None
        life.ready_at = life.sound_since = time.monotonic()
        self.loaded_once.set()
        if self.max_running < self._configure.max_running:
            self.send(SetMaxRunning(self.max_running))
        self._tell().worker_ready()

    def _lose(self) -> None:
        """Nothing more is expected of this worker, whether it has ended yet or not."""
        life = self._life
        if life is None or life.lost:
            return
        life.lost = True
        if life.ready_at is not None:
            life.phase = "busy" if self._tell().busy else "idle"
            life.ready_s = time.monotonic() - life.ready_at
        self.ready = None
        self.stats = None
        self._weight_bytes = self.model_states.loaded_bytes
        self.model_states.lose()
        life.explained = self._tell().worker_lost()

    def _note_exit(self, life: WorkerRun, status: int) -> None:
        self._lose()
        self._life = None
        words = {"last_words": life.last_words, "stalled": life.stalled}
        self.last_exit = describe_exit(status, life.phase, life.uptime_s, **words)
        if not self.loaded_once.is_set():
            self.failure = life.last_words or f"the worker ended: {self.last_exit.reason}"
        if self.failure or self._stopping.is_set():
            return
        logger.error(
            "the worker (%s, up %.1f s) ended: %s", life.phase, life.uptime_s, self.last_exit.reason
        )
        self._restarts.note_death(time.monotonic(), life.ready_s)
        if life.explained:
            self._restarts.explain()
        elif life.phase == "busy" and looks_like_memory(status, **words):
            self._halve()
        if self._restarts.too_many:
            self._give_up(self.last_exit)

    def _halve(self) -> None:
        if self._restarts.halve():
            logger.warning(
                "that looks like a want of memory: at most %d sequences at once now",
                self.max_running,
            )

    def _give_up(self, last: LastExit) -> None:
        """Tell everybody; the next worker is tried all the same."""
        self.failure = f"The worker ended too often, last: {last.reason}."
        logger.error("%s The next one starts in %g s", self.failure, self._restarts.delay_s)
        self._tell().worker_given_up(self.failure)

    # ------------------------------------------------------------ silence

    async def _watch(self, life: WorkerRun) -> None:
        """End a worker that should speak and does not."""
        shortest_s = min(self._timeouts.load_timeout_s, self._timeouts.stall_s)
        tick_s = min(LONGEST_TICK_S, shortest_s / TICKS_A_LIMIT)
        while True:
            await asyncio.sleep(tick_s)
            now = time.monotonic()
            life.silence.grow(now, 2 * tick_s)
            if self.ready is not None and not self._tell().busy:
                life.silence.end(now)
            self._grow(life, now)
            if life.silence.seconds > self._limit_s and not life.lost:
                life.stalled = f"no sign of progress for {self._limit_s:g} s"
                logger.error("the worker shows %s; ending it", life.stalled)
                self._lose()
                await self._end(life)

    @property
    def _limit_s(self) -> float:
        if self.ready is None:
            return self._timeouts.load_timeout_s
        return self._timeouts.stall_s

    def _grow(self, life: WorkerRun, now: float) -> None:
        """After a sound while, let more run at once again."""
        if self.ready is not None and self._restarts.grow(now - life.sound_since):
            life.sound_since = now
            logger.info("at most %d sequences at once again", self.max_running)
            self.send(SetMaxRunning(self.max_running))

    # ------------------------------------------------------------ waiting and ending

    async def _end(self, life: WorkerRun) -> None:
        """SIGTERM, then SIGKILL: a process killed with wired memory may keep it on macOS."""
        for insist in (life.worker.terminate, life.worker.kill):
            insist()
            if await self._gone(life):
                return

    async def _gone(self, life: WorkerRun) -> bool:
        await asyncio.wait([life.exited], timeout=STOP_GRACE_S)
        return life.exited.done()

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _wait_for_memory(self) -> None:
        """Wait, within a bound, until the machine has the memory that the weights need."""
        deadline = time.monotonic() + MEMORY_WAIT_S
        told = False
        while (left := self._available_bytes()) is not None and left < self._weight_bytes:
            if not told:
                logger.warning(
                    "waiting for memory: the weights need %d MiB, %d MiB are left",
                    self._weight_bytes >> 20,
                    left >> 20,
                )
                told = True
            if time.monotonic() > deadline or await self._stopped_within(MEMORY_POLL_S):
                return

    def _tell(self) -> WorkerObserver:
        if self._listener is None:
            raise RuntimeError("the supervisor runs without a listener")
        return self._listener
