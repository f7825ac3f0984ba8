"""Keeps one worker running: spawn, loading, readiness, death, back-off, stop.

Everything but the reading happens on the event loop. The supervisor knows no
requests: it hands each `Step` on, and tells when a worker became ready or was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import msgspec

from protocol.messages import (
    Configure,
    Fatal,
    Loading,
    Ready,
    Shutdown,
    Stats,
    Step,
    ToService,
    ToWorker,
)
from service.process import WorkerProcess

logger = logging.getLogger(__name__)

FIRST_BACK_OFF_S = 0.05
LONGEST_BACK_OFF_S = 10.0
# A worker that lived this long is taken for sound: the back-off starts again.
SOUND_AFTER_S = 30.0
STOP_GRACE_S = 2.0

T = TypeVar("T")

Status = Literal["healthy", "loading", "restarting", "draining", "failed"]


class LastExit(msgspec.Struct, frozen=True):
    """How the last worker ended."""

    reason: str
    status: int
    uptime_s: float


class Listener(Protocol):
    """Who is told what the worker does."""

    def worker_stepped(self, step: Step) -> None:
        """The worker took one step."""

    def worker_ready(self) -> None:
        """A worker is loaded and takes requests; an earlier one's are its to resume."""

    def worker_lost(self) -> None:
        """The worker died; all that it had not finished is lost with it."""


class Supervisor:
    """The state of the worker, and the task that keeps one alive."""

    def __init__(
        self,
        configure: Configure,
        command: Sequence[str],
        environ: Mapping[str, str],
        on_loading: Callable[[Loading], None],
    ) -> None:
        self._configure = configure
        self._command = command
        self._environ = environ
        self._on_loading = on_loading
        self._listener: Listener | None = None
        self._worker: WorkerProcess | None = None
        self._exited: asyncio.Future[int] | None = None
        self._started_at = time.monotonic()
        self._stopping = asyncio.Event()
        self._fatal: str | None = None
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
        return self._worker.pid if self._worker is not None else None

    @property
    def uptime_s(self) -> float:
        """How long this worker has run."""
        return time.monotonic() - self._started_at if self._worker is not None else 0.0

    async def wait_loaded(self, timeout_s: float) -> None:
        """Wait for the first worker to be ready, for at most `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.loaded_once.wait(), timeout_s)

    def listen(self, listener: Listener) -> None:
        """Tell `listener` from now on."""
        self._listener = listener

    def send(self, message: ToWorker) -> None:
        """Pass a message to a worker that is ready. Before that it is dropped.

        A request sent while a worker loads would reach it twice: `worker_ready`
        has its listener send all that is in flight.
        """
        if self._worker is not None and self.ready is not None:
            self._worker.send(message)

    async def run(self) -> None:
        """Keep a worker alive until `stop`. Returns early when none could ever be loaded."""
        back_off_s = FIRST_BACK_OFF_S
        while True:
            status = await self._run_worker()
            self._note_exit(status)
            if self._stopping.is_set():
                return
            if not self.loaded_once.is_set():
                self.failure = self._fatal or f"the worker ended: {describe_exit(status)}"
                return
            uptime_s = self.last_exit.uptime_s if self.last_exit else 0.0
            back_off_s = FIRST_BACK_OFF_S if uptime_s > SOUND_AFTER_S else back_off_s
            await asyncio.sleep(back_off_s)
            back_off_s = min(2 * back_off_s, LONGEST_BACK_OFF_S)
            self.restarts += 1

    async def stop(self) -> None:
        """End the worker: asked first, then told, then killed."""
        self._stopping.set()
        worker, exited = self._worker, self._exited
        if worker is None or exited is None:
            return
        worker.send(Shutdown())
        for insist in (worker.terminate, worker.kill):
            if await self._gone(exited):
                return
            insist()
        await self._gone(exited)

    def kill(self) -> None:
        """End the worker at once, for a process that is about to end itself."""
        if self._worker is not None:
            self._worker.kill()

    async def _gone(self, exited: asyncio.Future[int]) -> bool:
        await asyncio.wait([exited], timeout=STOP_GRACE_S)
        return exited.done()

    async def _run_worker(self) -> int:
        """One worker from start to exit; its exit status."""
        loop = asyncio.get_running_loop()
        exited: asyncio.Future[int] = loop.create_future()
        self._exited = exited
        self._fatal = None
        self._started_at = time.monotonic()
        worker = WorkerProcess(
            self._command,
            self._environ,
            on_message=lambda message: call_soon(loop, self._receive, message),
            on_exit=lambda status: call_soon(loop, exited.set_result, status),
        )
        self._worker = worker
        worker.send(self._configure)
        try:
            return await exited
        finally:
            if not exited.done():
                worker.kill()

    def _receive(self, message: ToService) -> None:
        match message:
            case Step():
                self.stats = message.stats
                self._tell().worker_stepped(message)
            case Loading():
                self._on_loading(message)
            case Ready():
                self.ready = message
                self.stats = Stats(0, 0, message.memory, 0.0, 0.0)
                self.loaded_once.set()
                self._tell().worker_ready()
            case Fatal(text):
                self._fatal = text

    def _note_exit(self, status: int) -> None:
        reason = self._fatal or describe_exit(status)
        self.last_exit = LastExit(reason, status, round(self.uptime_s, 3))
        self._worker = None
        self.ready = None
        self.stats = None
        if self.loaded_once.is_set() and not self._stopping.is_set():
            logger.error("the worker (up %.1f s) ended: %s", self.last_exit.uptime_s, reason)
        self._tell().worker_lost()

    def _tell(self) -> Listener:
        if self._listener is None:
            raise RuntimeError("the supervisor runs without a listener")
        return self._listener


def call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[T], None], value: T) -> None:
    """Call on the event loop from the reader thread; a loop that has closed needs no news."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, value)


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
