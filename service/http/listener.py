"""All connections: accepted up to a limit, watched, and ended within a given time.

Hypercorn's own `serve` (0.18) is not used. It takes connections without limit; on
Python 3.12 and later it waits at its end for every one of them, however long; and
asyncio's own accepting writes thousands of tracebacks where descriptors run out.
What it does besides is not needed: the app has no lifespan, and there is one socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from starlette.types import ASGIApp

from service.http.connection import ClientStream, Connection

logger = logging.getLogger(__name__)

BACKLOG_CONNECTIONS = 1024
# In one go, so that a flood of clients cannot starve those who are being served.
ACCEPT_BATCH = 16
# A new connection must bring a request in this time, and a used one its next.
IDLE_TIMEOUT_S = 5.0
# h11 counts the request's line as well.
REQUEST_LINE_BYTES = 8 * 1024
# Past this the kernel keeps no more for a client that does not read.
SEND_BUFFER_BYTES = 256 * 1024
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SHORTAGE_PAUSE_S = 0.5
WARNING_INTERVAL_S = 10.0
CHECKS_PER_STALL = 4
ABORT_S = 1.0
# For a client to say that it heard the end, which is no use to anybody.
TLS_GOODBYE_S = 1.0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port in use is known before a model is loaded.

    Raises:
        OSError: the address cannot be had.
    """
    [(family, kind, proto, _, address), *_] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is accepted inherits it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """The base URL at which `listener` is reached."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class ConnectionListener:
    """Serves `app` on all connections of `listener`. Made and used on the event loop.

    Beyond `max_connections` a new one takes the place of the one that has been idle
    the longest; where none is idle, it is closed. A client that takes nothing for
    `write_stall_s` of what waits for it is cut off. With `tls` all speak TLS; whoever does
    not finish its handshake is idle.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        max_connections: int,
        max_header_bytes: int,
        write_stall_s: float,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._config = make_config(max_header_bytes, idle_timeout_s)
        # Hypercorn types an app more narrowly than ASGI does.
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]
        self._listener = listener
        self._max_connections = max_connections
        self._write_stall_s = write_stall_s
        self._tls = tls
        self._tls_times_s = (idle_timeout_s, TLS_GOODBYE_S) if tls else (None, None)
        self._context = WorkerContext(None)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        # Those of the tasks that count: one that was ended to make room does not.
        self._places: set[asyncio.Task[None]] = set()
        # Accepted, but not yet known to be idle or busy.
        self._connecting: dict[asyncio.Task[None], None] = {}
        self._open: dict[Connection, asyncio.Task[None]] = {}
        self._idle: dict[Connection, None] = {}
        self._warned_at: dict[str, float] = {}
        self._watch: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def listen(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        self._accept_again()
        self._watch = asyncio.create_task(self._watch_stalls(), name="connections-watch")

    async def close(self, flush_s: float) -> None:
        """End all: idle ones now, answers that are finished within `flush_s`, then the rest."""
        self._stop_accepting()
        if self._watch is not None:
            self._watch.cancel()
        await self._context.terminated.set()
        await self._wait_gone(flush_s)
        if self._tasks:
            logger.warning("cutting off %d connections that do not end", len(self._tasks))
        for connection in list(self._open):
            connection.abort()
        await self._wait_gone(ABORT_S)
        for task in self._tasks:
            task.cancel()
        await self._wait_gone(ABORT_S)

    async def _wait_gone(self, timeout_s: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    # ------------------------------------------------------------ accepting

    def _stop_accepting(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        batch = min(ACCEPT_BATCH, self._max_connections)
        # A handshake of TLS may take long: those in theirs can be ended to make room.
        connecting = 0 if self._tls else len(self._connecting)
        for _ in range(batch - connecting):
            try:
                accepted, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            self._admit(accepted)

    def _pause(self, error: OSError) -> None:
        """Leave clients waiting in the backlog: trying again at once would fail at once."""
        kind = "descriptors or memory are short" if error.errno in SHORTAGES else "accepting failed"
        self._warn(f"{kind} ({error.strerror}): new connections wait")
        self._loop.remove_reader(self._listener)
        self._loop.call_later(SHORTAGE_PAUSE_S, self._accept_again)

    def _admit(self, accepted: socket.socket) -> None:
        if len(self._places) >= self._max_connections and not self._make_room():
            self._warn(f"all {self._max_connections} connections are busy: refusing more")
            accepted.close()
            return
        task = asyncio.create_task(self._serve(accepted), name="connection")
        self._connecting[task] = None
        for kept in (self._tasks, self._places):
            kept.add(task)
            task.add_done_callback(kept.discard)

    def _make_room(self) -> bool:
        connection = next(iter(self._idle), None)
        if connection is None:
            return self._end_handshake()
        del self._idle[connection]
        self._places.discard(self._open[connection])
        connection.abort()
        return True

    def _end_handshake(self) -> bool:
        task = next(iter(self._connecting), None) if self._tls else None
        if task is None:
            return False
        del self._connecting[task]
        self._places.discard(task)
        task.cancel()
        return True

    def _warn(self, text: str) -> None:
        """Log what clients could cause at any rate, now and then."""
        now = self._loop.time()
        if now - self._warned_at.get(text, -WARNING_INTERVAL_S) >= WARNING_INTERVAL_S:
            self._warned_at[text] = now
            logger.warning("%s", text)

    # ------------------------------------------------------------ serving

    async def _serve(self, accepted: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            connection = await self._connect(accepted)
        except OSError:
            accepted.close()
            return
        except asyncio.CancelledError:
            accepted.close()
            raise
        finally:
            self._connecting.pop(task, None)
        self._open[connection] = task
        self._note_idle(connection, True)
        try:
            # What fails between a client and us is no fault of ours.
            with contextlib.suppress(OSError):
                await connection.run()
        except Exception:
            logger.exception("a connection failed")
        finally:
            del self._open[connection]
            self._idle.pop(connection, None)

    async def _connect(self, accepted: socket.socket) -> Connection:
        accepted.setblocking(False)
        reader = asyncio.StreamReader()
        arrivals = ClientStream(reader)
        handshake_s, goodbye_s = self._tls_times_s
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: arrivals,
            accepted,
            ssl=self._tls,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=goodbye_s,
        )
        writer = asyncio.StreamWriter(transport, arrivals, reader, self._loop)
        return Connection(
            self._app, self._config, self._context, arrivals, reader, writer, self._note_idle
        )

    def _note_idle(self, connection: Connection, idle: bool) -> None:
        self._idle.pop(connection, None)
        if idle:
            self._idle[connection] = None

    async def _watch_stalls(self) -> None:
        while True:
            await asyncio.sleep(self._write_stall_s / CHECKS_PER_STALL)
            for connection in list(self._open):
                if connection.stalled_s() >= self._write_stall_s:
                    self._warn("cutting off clients that do not read")
                    connection.abort()


def make_config(max_header_bytes: int, idle_timeout_s: float) -> Config:
    """What Hypercorn's protocol is told."""
    config = Config()
    config.errorlog = logging.getLogger("hypercorn")
    config.include_server_header = False
    config.h11_max_incomplete_size = max_header_bytes + REQUEST_LINE_BYTES
    config.keep_alive_timeout = idle_timeout_s
    return config
