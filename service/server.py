"""The service's life: start, serve, drain, stop, and the exit code."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import time
from collections.abc import Callable

from service.errors import WorkerUnavailable
from service.http.listener import ConnectionListener
from service.inflight.registry import RequestRegistry
from service.supervision.supervisor import Supervisor

logger = logging.getLogger(__name__)

# For error events to reach their clients.
FLUSH_S = 0.5
# For finished answers to reach slow ones, while the drain time lasts.
SETTLE_S = 5.0
# Past the drain time and all that is bounded after it, something hangs.
LAST_RESORT_S = 15.0
EXIT_OK = 0
EXIT_FAILED = 1


class Server:
    """Runs the connections and the worker until a signal, or until no model can be loaded.

    After a SIGTERM or SIGINT new requests get 503 `draining`, and so does `/health`, on
    old connections and on new ones; those in flight go on for up to `drain_s` and then
    end in an error. Only then is the port closed. A second signal ends the process at once.
    """

    def __init__(
        self,
        connections: ConnectionListener,
        supervisor: Supervisor,
        generations: RequestRegistry,
        *,
        drain_s: float,
        on_ready: Callable[[], None],
    ) -> None:
        self._connections = connections
        self._supervisor = supervisor
        self._generations = generations
        self._drain_s = drain_s
        self._on_ready = on_ready
        self._signalled = asyncio.Event()

    async def run(self) -> int:
        """Serve; the process's exit code."""
        self._handle_signals()
        self._connections.listen()
        worker = asyncio.create_task(self._supervisor.run())
        ready = asyncio.create_task(self._supervisor.loaded_once.wait())
        told = asyncio.create_task(self._signalled.wait())
        await self._first(ready, worker, told)
        if ready.done():
            self._on_ready()
            await self._first(worker, told)
        failed = not told.done()
        flush_s = FLUSH_S if failed else await self._drain()
        for task in (ready, told):
            task.cancel()
        await asyncio.gather(self._connections.close(flush_s), self._supervisor.stop())
        worker.cancel()
        return EXIT_FAILED if failed else EXIT_OK

    async def _drain(self) -> float:
        """Let what runs go on for the drain time; how long its answers may take to be sent."""
        self._supervisor.draining = True
        # A thread of its own, which needs nothing of this process to work.
        faulthandler.dump_traceback_later(self._drain_s + LAST_RESORT_S, exit=True)
        logger.info("draining: %d requests in flight", len(self._generations))
        began = time.monotonic()
        try:
            await asyncio.wait_for(self._generations.wait_idle(), self._drain_s)
        except TimeoutError:
            logger.warning("ending %d unfinished requests", len(self._generations))
            self._generations.fail_all(
                WorkerUnavailable("The service is stopping.", code="draining")
            )
        left_s = self._drain_s - (time.monotonic() - began)
        return max(FLUSH_S, min(SETTLE_S, left_s))

    async def _first(self, *tasks: asyncio.Task[bool] | asyncio.Task[None]) -> None:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal, number)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _signal(self, number: signal.Signals) -> None:
        if self._signalled.is_set():
            self._supervisor.kill()
            os._exit(128 + number)
        self._signalled.set()
