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
    RanksMet,
    Ready,
    SetMaxRunning,
    Shutdown,
    Step,
    ToService,
    ToWorker,
)
from protocol.stats import Stats
from service.ranks.attendance import Attendance
from service.ranks.layout import ONE_PROCESS, RankLayout
from service.schema.health import HealthStatus
from service.supervision.available_memory import read_available, wait_for_memory
from service.supervision.exit_reason import (
    LastExit,
    abort_message,
    describe_exit,
    log_last_words,
    looks_like_out_of_memory,
    shows_slow_calls,
)
from service.supervision.model_states import ModelStates
from service.supervision.process import WorkerProcess, WorkerRun
from service.supervision.restart_policy import PrefillShortening, RestartLimits, RestartPolicy
from service.supervision.worker_clocks import Timeouts

logger = logging.getLogger(__name__)

STOP_GRACE_S = 2.0
# How long the next start waits after one without all ranks.
ABSENT_RANK_DELAY_S = 1.0
# How often the worker is pinged and its clocks are checked.
MAX_TICK_S = 1.0
TICKS_PER_TIMEOUT = 10


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

    def worker_lost(self, *, blameless: bool) -> bool:
        """The worker is lost, with all unfinished requests; whether the cause was found.

        With `blameless` no request has caused it.
        """

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
        self.attendance = Attendance(
            ranks.names, meeting_s=timeouts.stall_s, away_limit_s=timeouts.ranks_away_s
        )
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
            delay_s = ABSENT_RANK_DELAY_S if self.attendance.has_absent else self._policy.delay_s
            if await self._wait_stopping(delay_s):
                return
            await wait_for_memory(self._available_bytes, self._weight_bytes, self._wait_stopping)
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
        self.attendance.begin(worker.rank_pids)
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
        # Of a worker that is lost, why it has ended still counts.
        if run is None or (run.lost and not isinstance(message, Fatal)):
            return
        run.clocks.record_message(time.monotonic())
        match message:
            case Step():
                self.stats = message.stats
                tokens = self._observer.worker_stepped(message)
                self._on_step(message.stats, tokens)
            case Pong():
                run.clocks.record_pong(message, time.monotonic())
            case Tokenized() | Rejected():
                self._observer.worker_tokenized(message)
            case ModelsChanged() | CommandResult():
                self.model_states.update(message)
            case RanksMet(ranks, complete):
                self.attendance.meet(ranks, complete=complete)
            case Loading():
                self._on_loading(message)
            case Fatal(text, rank, silent):
                run.fatal_message, run.lost_rank, run.lost_silently = text, rank, silent
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
        run.cause_found = self._observer.worker_lost(blameless=run.lost_silently)

    def _handle_exit(self, run: WorkerRun, status: int) -> None:
        self._lose_worker()
        self._current = None
        self.attendance.lose(run.rank_loss(status))
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
        causes["fatal_message"] = run.own_message or abort_message(last_words)
        if self.attendance.has_absent:
            return
        self._policy.record_exit(time.monotonic(), run.ready_s)
        if run.cause_found:
            self._policy.clear()
        elif shows_slow_calls(run.phase, **causes):
            self._shorten_slices(self.last_exit.reason)
        elif run.phase == "busy" and looks_like_out_of_memory(status, **causes):
            self._halve_max_running()
        if self._policy.too_many_exits:
            self._give_up(
                f"The worker exited too often; the last exit: {self.last_exit.reason}. "
                f"The next one starts in {self._policy.delay_s:g} s."
            )

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

    def _give_up(self, reason: str) -> None:
        """Fail the requests in flight; the next worker is started nevertheless."""
        self.failure = reason
        logger.error("%s", reason)
        self._observer.worker_given_up(reason)

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
            hang = hang or self._check_ranks()
            self._raise_max_running(run, now)
            if hang is not None and not run.lost:
                run.stall = hang
                logger.error("the worker is hung (%s); terminating it", hang)
                self._lose_worker()
                await self._terminate(run)
            elif self.ready is not None and run.clocks.take_ping():
                self.send(Ping())

    def _check_ranks(self) -> str | None:
        """Fail the requests if a rank is away for too long; why all ranks must start again."""
        absence = self.attendance.explain_absence()
        if absence is not None and self.failure is None:
            self._give_up(f"No worker can start: {absence}.")
        return self.attendance.explain_failed_meeting()

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

    @property
    def _observer(self) -> WorkerObserver:
        if self._registered_observer is None:
            raise RuntimeError("the supervisor runs without an observer")
        return self._registered_observer
