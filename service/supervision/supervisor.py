"""Keeps one worker running: starts it, detects stalls, restarts it after an exit, stops it.

Everything runs on the event loop. The supervisor does not know the requests: it passes each
`Step` to its observer, and reports when a worker is ready or lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from protocol.events import Rejected, Tokenized
from protocol.messages import (
    CommandResult,
    Configure,
    Fatal,
    Loading,
    ModelsChanged,
    Ping,
    Pong,
    Ready,
    SetMaxRunning,
    Shutdown,
    Step,
    ToService,
    ToWorker,
)
from protocol.stats import Stats
from service.ranks.layout import ONE_PROCESS, RankLayout
from service.schema.health import HealthStatus
from service.supervision.available_memory import read_available
from service.supervision.exit_reason import (
    LOGGED_LAST_WORDS_CHARS,
    LastExit,
    abort_message,
    describe_exit,
    end_of,
    looks_like_out_of_memory,
    shows_slow_calls,
)
from service.supervision.model_states import ModelStates
from service.supervision.process import WorkerProcess, WorkerRun
from service.supervision.restart_policy import PrefillShortening, RestartLimits, RestartPolicy
from service.supervision.worker_clocks import Timeouts

logger = logging.getLogger(__name__)

STOP_GRACE_S = 2.0
# How often the worker is pinged and its clocks are checked.
MAX_TICK_S = 1.0
TICKS_PER_TIMEOUT = 10
# How long a restart waits for the memory that the weights need, and how often it checks.
MEMORY_WAIT_S = 30.0
MEMORY_POLL_S = 0.5


class WorkerObserver(Protocol):
    """Gets the steps and the state changes of the worker."""

    @property
    def busy(self) -> bool:
        """Whether the worker has requests."""

    def worker_stepped(self, step: Step) -> int:
        """The worker completed a step; returns the number of generated tokens."""

    def worker_tokenized(self, result: Tokenized | Rejected) -> None:
        """The worker has the result of a request for the tokenizer alone."""

    def worker_ready(self) -> None:
        """A worker is loaded and accepts requests; it must get all requests in flight."""

    def worker_lost(self) -> bool:
        """The worker is lost, with all unfinished requests; whether the cause was found."""

    def worker_given_up(self, reason: str) -> None:
        """Workers exit too often: no request should wait for the next one."""


class Supervisor:
    """The state of the worker, and the task that keeps one running."""

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
        ranks: RankLayout = ONE_PROCESS,
        available_bytes: Callable[[], int | None] = read_available,
    ) -> None:
        self._configure = configure
        self._command = command
        self._environ = environ
        self._timeouts = timeouts
        self.ranks = ranks
        self._on_loading = on_loading
        self._on_step = on_step
        self._available_bytes = available_bytes
        self._policy = RestartPolicy(restart_limits or RestartLimits(), configure.max_running)
        self._shortening = PrefillShortening()
        self._registered_observer: WorkerObserver | None = None
        self._current: WorkerRun | None = None
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
    def status(self) -> HealthStatus:
        """The status that `/health` reports."""
        if self.draining:
            return "draining"
        if self.failure is not None:
            return "failed"
        if self.ready is not None:
            return "healthy"
        return "restarting" if self.loaded_once.is_set() else "loading"

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while no worker runs."""
        return self._current.worker.pid if self._current is not None else None

    @property
    def rank_pids(self) -> list[int]:
        """The process ids of all ranks, that of rank 0 first; none while no worker runs."""
        return self._current.worker.rank_pids if self._current is not None else []

    @property
    def uptime_s(self) -> float:
        """The time since the start of the current worker; 0 while no worker runs."""
        return self._current.uptime_s if self._current is not None else 0.0

    @property
    def max_running(self) -> int:
        """The current limit of sequences of one model on the device."""
        return self._policy.max_running

    @property
    def prefill_limits(self) -> Configure:
        """The configuration of the next worker, with its limits of a slice of prefill."""
        return self._shortening.apply_to(self._configure)

    @property
    def shortened_because(self) -> str | None:
        """The exit that has shortened the slices of prefill, if any."""
        return self._shortening.reason

    async def wait_loaded(self, timeout_s: float) -> None:
        """Wait until the first worker is ready, for at most `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.loaded_once.wait(), timeout_s)

    def set_observer(self, observer: WorkerObserver) -> None:
        """Set the observer; call this before `run`."""
        self._registered_observer = observer

    def send(self, message: ToWorker) -> None:
        """Send a message to a worker that is ready; otherwise the message is dropped.

        A request sent while a worker loads would reach it twice, because the observer
        sends all requests in flight at `worker_ready`.
        """
        if self._current is not None and self.ready is not None:
            self._current.worker.send(message)

    async def run(self) -> None:
        """Keep a worker running until `stop`. Returns early if the first one cannot load."""
        while not self._stopping.is_set():
            await self._run_worker()
            if not self.loaded_once.is_set():
                return
            if await self._wait_stopping(self._policy.delay_s):
                return
            await self._wait_for_memory()
            self.restarts += 1

    async def stop(self) -> None:
        """Stop the worker: by a message, then SIGTERM, then SIGKILL."""
        self._stopping.set()
        if (run := self._current) is not None:
            run.worker.send(Shutdown())
            if not await self._wait_exit(run):
                await self._terminate(run)

    def kill(self) -> None:
        """Kill the worker at once, because this process is about to exit."""
        if self._current is not None:
            self._current.worker.kill()

    # ------------------------------------------------------------ one worker

    async def _run_worker(self) -> None:
        """Run one worker from its start to its exit."""
        exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        worker = WorkerProcess(
            self._command,
            self._environ,
            on_message=self._receive,
            on_closed=self._lose_worker,
            on_exit=exited.set_result,
            ranks=self.ranks,
        )
        self._current = run = WorkerRun(worker, exited, self._timeouts)
        worker.configure(self.model_states.next_configure(self.prefill_limits))
        watch = asyncio.create_task(self._watch(run), name="worker-watch")
        try:
            self._handle_exit(run, await exited)
        finally:
            watch.cancel()
            if not exited.done():
                worker.kill()

    def _receive(self, message: ToService) -> None:
        run = self._current
        if run is not None and isinstance(message, Fatal):
            run.fatal_message = message.message
        if run is None or run.lost:
            return
        run.clocks.record_message(time.monotonic())
        match message:
            case Pong():
                run.clocks.record_pong(message, time.monotonic())
            case Step():
                self.stats = message.stats
                tokens = self._observer.worker_stepped(message)
                self._on_step(message.stats, tokens)
            case Tokenized() | Rejected():
                self._observer.worker_tokenized(message)
            case ModelsChanged() | CommandResult():
                self.model_states.update(message)
            case Loading():
                self._on_loading(message)
            case Ready():
                self._set_ready(run, message)

    def _set_ready(self, run: WorkerRun, ready: Ready) -> None:
        """A worker has loaded: the observer sends it the requests in flight."""
        self.ready = ready
        self.stats = Stats(running=0, waiting=0, memory=ready.memory, device_ms=0.0, host_ms=0.0)
        self.failure = None
        run.ready_at = run.healthy_since = time.monotonic()
        self.loaded_once.set()
        if self.max_running < self._configure.max_running:
            self.send(SetMaxRunning(self.max_running))
        self._observer.worker_ready()

    def _lose_worker(self) -> None:
        """Stop using the current worker, whether it has exited yet or not."""
        run = self._current
        if run is None or run.lost:
            return
        run.lost = True
        if run.ready_at is not None:
            run.phase = "busy" if self._observer.busy else "idle"
            run.ready_s = time.monotonic() - run.ready_at
        self.ready = None
        self.stats = None
        self._weight_bytes = self.model_states.loaded_bytes
        self.model_states.handle_lost_worker()
        run.cause_found = self._observer.worker_lost()

    def _handle_exit(self, run: WorkerRun, status: int) -> None:
        self._lose_worker()
        self._current = None
        causes = {"fatal_message": run.last_message, "stall": run.stall}
        last_words = run.worker.last_words
        self.last_exit = describe_exit(
            status, run.phase, run.uptime_s, **causes, last_words=last_words
        )
        if not self.loaded_once.is_set():
            self.failure = run.fatal_message or f"the worker exited: {self.last_exit.reason}"
        if self.failure or self._stopping.is_set():
            return
        logger.error(
            "the worker (%s, up %.1f s) exited: %s", run.phase, run.uptime_s, self.last_exit.reason
        )
        log_last_words(last_words, self.last_exit.reason)
        causes["fatal_message"] = run.fatal_message or abort_message(last_words)
        self._policy.record_exit(time.monotonic(), run.ready_s)
        if run.cause_found:
            self._policy.clear()
        elif shows_slow_calls(run.phase, **causes):
            self._shorten_slices(self.last_exit.reason)
        elif run.phase == "busy" and looks_like_out_of_memory(status, **causes):
            self._halve_max_running()
        if self._policy.too_many_exits:
            self._give_up(self.last_exit)

    def _shorten_slices(self, reason: str) -> None:
        if self._shortening.halve(reason):
            limits = self.prefill_limits
            logger.warning(
                "a device call took too long: slices of prefill have at most %d rows of %d tokens",
                limits.prefill_rows,
                limits.prefill_step_tokens,
            )

    def _halve_max_running(self) -> None:
        if self._policy.halve_max_running():
            logger.warning(
                "the worker was probably out of memory: running at most %d sequences per model",
                self.max_running,
            )

    def _give_up(self, last: LastExit) -> None:
        """Fail the requests in flight; the next worker is started nevertheless."""
        self.failure = f"The worker exited too often; the last exit: {last.reason}."
        logger.error("%s The next one starts in %g s", self.failure, self._policy.delay_s)
        self._observer.worker_given_up(self.failure)

    # ------------------------------------------------------------ stalls

    async def _watch(self, run: WorkerRun) -> None:
        """Ping the worker, and terminate it once it is hung."""
        shortest_s = min(self._timeouts.load_timeout_s, self._timeouts.stall_s)
        tick_s = min(MAX_TICK_S, shortest_s / TICKS_PER_TIMEOUT)
        while True:
            await asyncio.sleep(tick_s)
            run.worker.notice_exit()
            now = time.monotonic()
            hang = run.clocks.advance(now, 2 * tick_s, ready=self.ready is not None)
            self._raise_max_running(run, now)
            if hang is not None and not run.lost:
                run.stall = hang
                logger.error("the worker is hung (%s); terminating it", hang)
                self._lose_worker()
                await self._terminate(run)
            elif self.ready is not None and run.clocks.take_ping():
                self.send(Ping())

    def _raise_max_running(self, run: WorkerRun, now: float) -> None:
        """Double `max_running` again once the worker was healthy for long enough."""
        if self.ready is not None and self._policy.raise_max_running(now - run.healthy_since):
            run.healthy_since = now
            logger.info("running at most %d sequences per model again", self.max_running)
            self.send(SetMaxRunning(self.max_running))

    # ------------------------------------------------------------ waiting and stopping

    async def _terminate(self, run: WorkerRun) -> None:
        """SIGTERM, then SIGKILL: a process killed with wired memory may keep it on macOS."""
        for end in (run.worker.terminate, run.worker.kill):
            end()
            if await self._wait_exit(run):
                return

    async def _wait_exit(self, run: WorkerRun) -> bool:
        """Wait for the exit for up to `STOP_GRACE_S`; whether the worker has exited."""
        await asyncio.wait([run.exited], timeout=STOP_GRACE_S)
        return run.exited.done()

    async def _wait_stopping(self, timeout_s: float) -> bool:
        """Wait for `stop` for up to `timeout_s`; whether it was called."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), timeout_s)
        return self._stopping.is_set()

    async def _wait_for_memory(self) -> None:
        """Wait until the machine has the memory that the weights need, for a bounded time."""
        deadline = time.monotonic() + MEMORY_WAIT_S
        logged = False
        while (left := self._available_bytes()) is not None and left < self._weight_bytes:
            if not logged:
                logger.warning(
                    "waiting for memory: the weights need %d MiB, %d MiB are available",
                    self._weight_bytes >> 20,
                    left >> 20,
                )
                logged = True
            if time.monotonic() > deadline or await self._wait_stopping(MEMORY_POLL_S):
                return

    @property
    def _observer(self) -> WorkerObserver:
        if self._registered_observer is None:
            raise RuntimeError("the supervisor runs without an observer")
        return self._registered_observer


def log_last_words(last_words: str, reason: str) -> None:
    """Log the end of a worker's standard error, if the reason does not have all of it."""
    shown = end_of(last_words, LOGGED_LAST_WORDS_CHARS)
    if shown not in reason:
        logger.error("the worker's standard error ended with: %s", shown)
