"""All connections: accepted up to a limit, checked for stalls, and closed within a given time.

Hypercorn's own `serve` (0.18) is not used. It accepts connections without limit; on
Python 3.12 and later it waits without limit for all of them when it ends; and asyncio's
accept loop writes thousands of tracebacks when file descriptors run out. Its other
features are not needed: the app has no lifespan, and there is one socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Collection

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from starlette.types import ASGIApp

from service.transport.clients import ConnectionClients, Peer, find_client_above_half
from service.transport.connection import ClientStream, Connection
from service.transport.turns import Turns

logger = logging.getLogger(__name__)

BACKLOG_CONNECTIONS = 1024
# Per turn of the event loop, so that many new clients cannot delay the present ones.
ACCEPT_BATCH = 16
# A connection without a complete request is closed after this time.
IDLE_TIMEOUT_S = 5.0
# h11's limit includes the request line.
REQUEST_LINE_BYTES = 8 * 1024
# The kernel buffers no more than this for a client that does not read.
SEND_BUFFER_BYTES = 256 * 1024
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SHORTAGE_PAUSE_S = 0.5
WARNING_INTERVAL_S = 10.0
# Pieces of a body, of up to 64 KiB, that Hypercorn holds until its reader takes them.
BODY_QUEUE_MESSAGES = 2
CHECKS_PER_STALL = 4
ABORT_S = 1.0
# The wait for a client's reply to the close alert, which the service does not need.
TLS_SHUTDOWN_S = 1.0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Call it before a model is loaded: it fails if the port is in use.

    Raises:
        OSError: the address cannot be used.
    """
    try:
        [(family, kind, proto, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError:
        raise OSError(errno.EINVAL, "it is no valid host name") from None
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """The base URL of `listener`."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class ConnectionListener:
    """Serves `app` on all connections of `listener`. Create and use it on the event loop.

    At `max_connections` a new connection replaces the one that has been idle the longest;
    if none is idle, the new one is closed. Once a client has more than half of them, only its
    own are replaced: idle ones, and for other clients also its newest one whose request has not
    arrived. A client that reads nothing for `write_stall_s`
    while data waits for it is disconnected. With `tls` every connection uses TLS; during its
    handshake a connection counts as idle.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        max_connections: int,
        max_header_bytes: int,
        write_stall_s: float,
        clients: ConnectionClients,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._config = make_config(max_header_bytes, idle_timeout_s)
        # Hypercorn types an app more narrowly than ASGI does.
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]
        self._listener = listener
        self._max_connections = max_connections
        self._write_stall_s = write_stall_s
        self._clients = clients
        self._tls = tls
        self._tls_times_s = (idle_timeout_s, TLS_SHUTDOWN_S) if tls else (None, None)
        self._context = WorkerContext(None)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        # The tasks that count towards the limit: those that `_evict` ended do not.
        self._counted: dict[asyncio.Task[None], Peer] = {}
        # Those that wait for the name of their client, to replace another client's connection.
        self._naming: set[asyncio.Task[None]] = set()
        # Accepted, but neither idle nor busy yet. A dict keeps the order.
        self._connecting: dict[asyncio.Task[None], None] = {}
        self._open: dict[Connection, asyncio.Task[None]] = {}
        # From the one that has been idle the longest.
        self._idle: dict[Connection, None] = {}
        self._turns = Turns()
        self._warned_at: dict[str, float] = {}
        self._stall_check: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def listen(self) -> None:
        """Start to accept connections."""
        self._listener.setblocking(False)
        self._resume_accepting()
        self._stall_check = asyncio.create_task(self._check_stalls(), name="connections-watch")

    async def close(self, flush_s: float) -> None:
        """Close all connections: idle ones at once, busy ones when their responses end.

        Those that are still open after `flush_s` are aborted.
        """
        self._stop_accepting()
        if self._stall_check is not None:
            self._stall_check.cancel()
        for naming in self._naming:
            naming.cancel()
        await self._context.terminated.set()
        await self._wait_closed(flush_s)
        if self._tasks:
            logger.warning("aborting %d connections that do not end", len(self._tasks))
        for connection in list(self._open):
            connection.abort()
        await self._wait_closed(ABORT_S)
        for task in self._tasks:
            task.cancel()
        await self._wait_closed(ABORT_S)

    async def _wait_closed(self, timeout_s: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    # ------------------------------------------------------------ accepting

    def _stop_accepting(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _resume_accepting(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        batch = min(ACCEPT_BATCH, self._max_connections)
        # TLS handshakes may take long, but `_evict` can end them: they do not count here.
        connecting = 0 if self._tls else len(self._connecting)
        for _ in range(batch - connecting):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            self._admit(accepted, Peer(*address[:2], *accepted.getsockname()[:2]))

    def _pause(self, error: OSError) -> None:
        """Stop accepting for a while: an immediate retry fails in the same way."""
        kind = "out of descriptors or memory" if error.errno in SHORTAGES else "accepting failed"
        self._warn(f"{kind} ({error.strerror}): new connections wait")
        self._loop.remove_reader(self._listener)
        self._loop.call_later(SHORTAGE_PAUSE_S, self._resume_accepting)

    def _admit(self, accepted: socket.socket, peer: Peer) -> None:
        if not self._is_full or self._evict_for(peer):
            self._start(accepted, peer)
        elif len(self._naming) < ACCEPT_BATCH:
            task = asyncio.create_task(self._admit_by_name(accepted, peer), name="naming")
            self._naming.add(task)
            task.add_done_callback(self._naming.discard)
        else:
            self._refuse(accepted)

    async def _admit_by_name(self, accepted: socket.socket, peer: Peer) -> None:
        """Find the client's name, and those of the others, before the new connection is refused."""
        try:
            await self._clients.find_name(peer)
        except asyncio.CancelledError:
            accepted.close()
            raise
        if not self._is_full or self._evict_for(peer):
            self._start(accepted, peer)
        else:
            self._refuse(accepted)

    @property
    def _is_full(self) -> bool:
        return len(self._counted) >= self._max_connections

    def _refuse(self, accepted: socket.socket) -> None:
        self._warn(f"all {self._max_connections} connections are busy: refusing new ones")
        accepted.close()

    def _start(self, accepted: socket.socket, peer: Peer) -> None:
        task = asyncio.create_task(self._serve(accepted), name="connection")
        self._connecting[task] = None
        self._tasks.add(task)
        self._counted[task] = peer
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda ended: self._counted.pop(ended, None))

    def _evict_for(self, peer: Peer) -> bool:
        """End a connection to make room for a new one; False if there is none to end."""
        names = {task: self._clients.name_now(other) for task, other in self._counted.items()}
        largest = find_client_above_half(names.values(), self._max_connections)
        replaced = {task for task, name in names.items() if largest in (None, name)}
        if self._evict_idle(replaced) or self._evict_handshake(replaced):
            return True
        return largest not in (None, self._clients.name_now(peer)) and self._evict_unfinished(
            replaced
        )

    def _evict_idle(self, tasks: Collection[asyncio.Task[None]]) -> bool:
        """End that one of these connections that has been idle the longest."""
        idle = (each for each in self._idle if self._open[each] in tasks)
        return self._evict(next(idle, None))

    def _evict_unfinished(self, tasks: Collection[asyncio.Task[None]]) -> bool:
        """End the newest of these connections whose request has not arrived completely."""
        opened = reversed(self._open.items())
        unfinished = (each for each, task in opened if task in tasks and each.awaits_request)
        return self._evict(next(unfinished, None))

    def _evict(self, connection: Connection | None) -> bool:
        if connection is None:
            return False
        self._idle.pop(connection, None)
        self._counted.pop(self._open[connection], None)
        connection.abort()
        return True

    def _evict_handshake(self, tasks: Collection[asyncio.Task[None]]) -> bool:
        task = next((each for each in self._connecting if each in tasks), None)
        if task is None or not self._tls:
            return False
        del self._connecting[task]
        self._counted.pop(task, None)
        task.cancel()
        return True

    def _warn(self, text: str) -> None:
        """Log a warning, at most once per `WARNING_INTERVAL_S`: clients can cause any number."""
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
        self._set_idle(connection, True)
        try:
            # A broken connection to a client is not a fault of the service.
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
        stream = ClientStream(reader)
        handshake_s, shutdown_s = self._tls_times_s
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: stream,
            accepted,
            ssl=self._tls,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=shutdown_s,
        )
        writer = asyncio.StreamWriter(transport, stream, reader=reader, loop=self._loop)
        return Connection(
            app=self._app,
            config=self._config,
            context=self._context,
            stream=stream,
            reader=reader,
            writer=writer,
            on_idle=self._set_idle,
            turns=self._turns,
        )

    def _set_idle(self, connection: Connection, idle: bool) -> None:
        self._idle.pop(connection, None)
        if idle:
            self._idle[connection] = None

    async def _check_stalls(self) -> None:
        while True:
            await asyncio.sleep(self._write_stall_s / CHECKS_PER_STALL)
            for connection in list(self._open):
                if connection.stalled_s() >= self._write_stall_s:
                    self._warn("disconnecting clients that do not read")
                    connection.abort()


def make_config(max_header_bytes: int, idle_timeout_s: float) -> Config:
    """The settings of Hypercorn's protocol."""
    config = Config()
    config.errorlog = logging.getLogger("hypercorn")
    config.include_server_header = False
    config.h11_max_incomplete_size = max_header_bytes + REQUEST_LINE_BYTES
    config.keep_alive_timeout = idle_timeout_s
    config.max_app_queue_size = BODY_QUEUE_MESSAGES
    return config
