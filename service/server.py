"""Runs the service: starts it, serves, drains, stops, and returns the exit code."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import time
from collections.abc import Callable

from service.errors import WorkerUnavailable
from service.inflight.registry import RequestRegistry
from service.supervision.supervisor import Supervisor
from service.transport.listener import ConnectionListener

logger = logging.getLogger(__name__)

# The least time for error events to reach the clients before connections are closed.
MIN_FLUSH_S = 0.5
# The most time for finished answers to reach slow clients, as far as the drain time allows.
MAX_FLUSH_S = 5.0
# If the process still runs this long after the drain time, something hangs: it is ended.
HANG_TIMEOUT_S = 15.0
EXIT_OK = 0
EXIT_FAILED = 1


class Server:
    """Runs the connections and the worker until a signal, or until no model can be loaded.

    After SIGTERM or SIGINT, new requests and `/health` get 503 `draining`, on old and on new
    connections. Requests in flight continue for up to `drain_s`; after that they fail. Only
    then is the port closed. A second signal ends the process at once.
    """

    def __init__(
        self,
        connections: ConnectionListener,
        supervisor: Supervisor,
        registry: RequestRegistry,
        *,
        drain_s: float,
        on_ready: Callable[[], None],
    ) -> None:
        self._connections = connections
        self._supervisor = supervisor
        self._registry = registry
        self._drain_s = drain_s
        self._on_ready = on_ready
        self._signalled = asyncio.Event()

    async def run(self) -> int:
        """Serve; returns the exit code of the process."""
        self._handle_signals()
        self._connections.listen()
        worker = asyncio.create_task(self._supervisor.run())
        ready = asyncio.create_task(self._supervisor.loaded_once.wait())
        signalled = asyncio.create_task(self._signalled.wait())
        await wait_first(ready, worker, signalled)
        if ready.done():
            self._on_ready()
            await wait_first(worker, signalled)
        failed = not signalled.done()
        flush_s = MIN_FLUSH_S if failed else await self._drain()
        for task in (ready, signalled):
            task.cancel()
        await asyncio.gather(self._connections.close(flush_s), self._supervisor.stop())
        worker.cancel()
        return EXIT_FAILED if failed else EXIT_OK

    async def _drain(self) -> float:
        """Wait for the requests in flight; returns the time for their answers to be sent."""
        self._supervisor.draining = True
        # It runs in its own thread, so it works even if this one hangs.
        faulthandler.dump_traceback_later(self._drain_s + HANG_TIMEOUT_S, exit=True)
        logger.info("draining: %d requests in flight", len(self._registry))
        started_at = time.monotonic()
        try:
            await asyncio.wait_for(self._registry.wait_idle(), self._drain_s)
        except TimeoutError:
            logger.warning("failing %d unfinished requests", len(self._registry))
            self._registry.fail_all(WorkerUnavailable("The service is stopping.", code="draining"))
        left_s = self._drain_s - (time.monotonic() - started_at)
        return max(MIN_FLUSH_S, min(MAX_FLUSH_S, left_s))

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal, number)
        # It is handled, not ignored: what is ignored stays so in the worker. The system ends a
        # stopped worker by this signal once this process has ended.
        loop.add_signal_handler(signal.SIGHUP, ignore_hangup)

    def _signal(self, number: signal.Signals) -> None:
        if self._signalled.is_set():
            self._supervisor.kill()
            os._exit(128 + number)
        self._signalled.set()


def ignore_hangup() -> None:
    """The terminal has gone: the service goes on."""


async def wait_first(*tasks: asyncio.Task[bool] | asyncio.Task[None]) -> None:
    """Wait until one of the tasks is done."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
