"""The service from its settings to its exit code: bind, start, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.types import ASGIApp

from service.errors import WorkerUnavailable
from service.generations import Generations
from service.supervisor import Supervisor

logger = logging.getLogger(__name__)

BACKLOG_CONNECTIONS = 1024
# For error events to reach their clients, and for Hypercorn to end.
FLUSH_S = 0.5
CLOSE_S = 2.0
EXIT_OK = 0
EXIT_FAILED = 1


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is known before a model is loaded.

    Raises:
        OSError: the address cannot be had.
    """
    [(family, kind, proto, _, address), *_] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL at which `listener` is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def hypercorn_log() -> logging.Logger:
    """Hypercorn's log without its greetings: the start screen says where the service is."""
    log = logging.getLogger("hypercorn")
    log.setLevel(logging.WARNING)
    return log


class Server:
    """Runs the app and the worker until a signal, or until no model can be loaded."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        supervisor: Supervisor,
        generations: Generations,
        *,
        drain_s: float,
        on_ready: Callable[[], None],
    ) -> None:
        self._app = app
        self._listener = listener
        self._supervisor = supervisor
        self._generations = generations
        self._drain_s = drain_s
        self._on_ready = on_ready
        self._signalled = asyncio.Event()
        self._shut_down = asyncio.Event()

    async def run(self) -> int:
        """Serve; the process's exit code."""
        self._handle_signals()
        http = asyncio.create_task(self._serve())
        worker = asyncio.create_task(self._supervisor.run())
        ready = asyncio.create_task(self._supervisor.loaded_once.wait())
        told = asyncio.create_task(self._signalled.wait())
        await self._first(ready, worker, http, told)
        if ready.done():
            self._on_ready()
            await self._first(worker, http, told)
        failed = not told.done()
        if told.done():
            await self._drain()
        for task in (ready, told):
            task.cancel()
        await self._stop(http)
        return EXIT_FAILED if failed else EXIT_OK

    async def _serve(self) -> None:
        config = Config()
        config.bind = [f"fd://{self._listener.detach()}"]
        config.backlog = BACKLOG_CONNECTIONS
        config.errorlog = hypercorn_log()
        config.include_server_header = False
        config.graceful_timeout = FLUSH_S
        # Hypercorn types the app and the trigger more narrowly than ASGI does (0.18).
        trigger: Callable[..., Awaitable[object]] = self._shut_down.wait
        await serve(self._app, config, shutdown_trigger=trigger)  # type: ignore[arg-type]

    async def _drain(self) -> None:
        """Let what runs go on for the drain time, then tell it the end."""
        self._supervisor.draining = True
        logger.info("draining: %d requests in flight", len(self._generations))
        try:
            await asyncio.wait_for(self._generations.wait_idle(), self._drain_s)
        except TimeoutError:
            logger.warning("ending %d unfinished requests", len(self._generations))
            self._generations.fail_all(
                WorkerUnavailable("The service is stopping.", code="draining")
            )
        # The last events are with their handlers now; let those write them.
        await asyncio.sleep(FLUSH_S)

    async def _stop(self, http: asyncio.Task[None]) -> None:
        self._shut_down.set()
        await self._supervisor.stop()
        await asyncio.wait([http], timeout=CLOSE_S)
        if not http.done():
            # Hypercorn 0.18 waits for ever for a stalled reader on Python 3.12 and later.
            logger.warning("connections are left that do not close; leaving them")
            os._exit(EXIT_OK)
        await http

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
