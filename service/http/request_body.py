"""Reads one request: its body, and whether its client has disconnected.

Hypercorn (0.18) waits without limit if an application responds and leaves a body unread,
and it reports a disconnect only as a message. So one task per request, the read loop,
receives all messages, whatever the endpoint does: it keeps at most the largest accepted
body, discards the rest, and calls the callbacks for a disconnect. It pauses only while a large
body waits for the endpoint to ask for it, and then for memory (`body_budget`): the server stops
reading the connection, and the time does not count towards the body's timeout.

`RequestReaderMiddleware` must be outside `ErrorMiddleware`: the read loop must run while
an error response is sent, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.config.settings import Settings
from service.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientDisconnected,
    InvalidRequest,
    MlxdError,
    copy_error,
)
from service.http.body_budget import SMALL_BODY_BYTES, BodyBudget
from service.http.header_limits import has_body

logger = logging.getLogger(__name__)

FindClient = Callable[[Scope], Awaitable[str]]

# How long a client may go on sending after the response. Closing at once would reset the
# connection, and the reset may arrive before the response.
LINGER_S = 1.0
MAX_LENGTH_DIGITS = 20
# A body's memory: its bytes, and its text once it is decoded.
COPIES = 2
# The key in `scope["state"]` of the function that sends `100 Continue` to a client that waits.
SEND_CONTINUE = "send_continue"


class RequestReaderMiddleware:
    """ASGI middleware that puts a `RequestReader` into `scope["state"]["request_reader"]`."""

    def __init__(
        self, app: ASGIApp, settings: Settings, budget: BodyBudget, find_client: FindClient
    ) -> None:
        self.app = app
        self.settings = settings
        self.budget = budget
        self.find_client = find_client
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_reader = RequestReader(
            scope,
            receive,
            send,
            settings=self.settings,
            budget=self.budget,
            find_client=partial(self.find_client, scope),
        )
        scope.setdefault("state", {})["request_reader"] = request_reader
        task = asyncio.create_task(request_reader.read_loop(), name="request-reader")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self.app(scope, request_reader.receive, request_reader.send)
        finally:
            # If a response broke off before the body was read, the read loop must go on: the
            # server waits for it when it closes the connection.
            if request_reader.responded or request_reader.received:
                task.cancel()
                await asyncio.wait([task])
            request_reader.close()
            # The reader refers to the scope, through `send`: a cycle.
            del scope["state"]["request_reader"]


class RequestReader:
    """The body of one request, and the state of its client's connection.

    - `disconnected`: the client disconnected before the response was complete.
    - `received`: the whole body has arrived.
    - `responded`: the whole response has been passed on.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        settings: Settings,
        budget: BodyBudget,
        find_client: Callable[[], Awaitable[str]],
    ) -> None:
        headers = Headers(scope=scope)
        self.disconnected = False
        self.received = not has_body(headers)
        self.responded = False
        self._receive = receive
        self._send = send
        self._send_continue: Callable[[], Awaitable[None]] | None = scope.get("state", {}).get(
            SEND_CONTINUE
        )
        self._max_bytes = settings.max_body_bytes
        self._refusal = _check_length(headers, settings.max_body_bytes)
        self._declared_bytes = 0 if self._refusal else int(headers.get("content-length", 0))
        # Finds the client, which is known when the endpoint asks for the body.
        self._find_client = find_client
        self._lease = budget.open(self._refuse)
        self._arrived = bytearray()
        self._size = 0
        self._body: bytes | bytearray = b""
        self._deadline = Deadline(settings.body_timeout_s, self._time_out)
        # The endpoint waits for the body, or the body is not needed.
        self._wanted = asyncio.Event()
        # The body is complete or refused.
        self._body_ready = asyncio.Event()
        # The client sends nothing more.
        self._input_ended = asyncio.Event()
        # The server reported the end of the request.
        self._closed = asyncio.Event()
        self._body_delivered = False
        self._answering = False
        self._callbacks: list[Callable[[], None]] = []
        if self.received:
            self._input_ended.set()
        if self.received or self._refusal:
            self._body_ready.set()
        else:
            self._deadline.run()

    @property
    def size(self) -> int:
        """The bytes of the body that have arrived."""
        return self._size

    async def body(self) -> bytes | bytearray:
        """The whole body; the memory that it has arrived in, which is not copied if it is large.

        Raises:
            BodyTooLarge: the body or its declared length is larger than `max_body_bytes`.
            BodyTimeout: reading the body took longer than `body_timeout_s`.
            BodyMemoryFull: there was no memory for it, or others needed its memory.
            InvalidRequest: the declared length is not a number.
            ClientDisconnected: the client disconnected before the body was complete.
        """
        await self._ask_for_body()
        self._wanted.set()
        await self._body_ready.wait()
        if self._refusal is not None:
            raise copy_error(self._refusal)
        return self._body

    async def reserve(self, nbytes: int) -> None:
        """Reserve `nbytes` of memory for the body and what is made of it, instead of its own.

        Raises:
            BodyMemoryFull: no memory became free for it.
        """
        await self._lease.resize(nbytes)
        if self._refusal is not None:
            raise copy_error(self._refusal)

    def check_connected(self) -> None:
        """Go no further with a request whose client has left.

        Raises:
            ClientDisconnected: it has.
        """
        if self.disconnected:
            raise ClientDisconnected("The client disconnected before its answer.")

    def discard_body(self) -> None:
        """Forget the body; what `reserve` has reserved stays so until the request ends."""
        self._body = b""

    def close(self) -> None:
        """Free the body's memory: the request has ended."""
        self._discard()
        self._body = b""
        self._deadline.end()
        self._callbacks.clear()

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` if the client disconnects before the response is complete.

        It is called at once if the client has already disconnected.
        """
        if self.disconnected:
            _call(callback)
        else:
            self._callbacks.append(callback)

    async def read_loop(self) -> None:
        """Receive messages until the server reports the end of the request."""
        while (message := await self._receive())["type"] != "http.disconnect":
            await self._add(message)
        self._close()

    async def receive(self) -> Message:
        """ASGI's `receive` for the app: the body in one message, then the disconnect."""
        if not self._body_delivered:
            self._body_delivered = True
            with contextlib.suppress(ClientDisconnected):
                body = bytes(await self.body())
                return {"type": "http.request", "body": body, "more_body": False}
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's `send` for the app. After a response to an unread body the connection closes."""
        if message["type"] == "http.response.start":
            self._answering = True
            if not self.received:
                self._discard()
            await self._add_close_header(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.responded = True
            if not self._input_ended.is_set():
                await self._send({**message, "more_body": True})
                await self._linger()
                message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _ask_for_body(self) -> None:
        """Send `100 Continue` if the client waits for it, unless the headers decide a refusal."""
        if self._send_continue is not None and not self._body_ready.is_set():
            await self._send_continue()

    async def _linger(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._input_ended.wait()

    async def _add_close_header(self, start: Message) -> None:
        if not self.received:
            # Let the read loop receive what has already arrived.
            await asyncio.sleep(0)
        if not self.received:
            MutableHeaders(scope=start)["connection"] = "close"

    async def _add(self, message: Message) -> None:
        chunk: bytes = message.get("body", b"")
        self._size += len(chunk)
        if self._size > self._max_bytes:
            self._refuse(_too_large(self._max_bytes))
        if self._size > SMALL_BODY_BYTES:
            await self._make_room()
        if self._is_kept:
            self._lease.record(len(chunk))
            self._arrived += chunk
        if not message.get("more_body", False):
            self._complete()

    @property
    def _is_kept(self) -> bool:
        """Whether somebody still needs the body."""
        return self._refusal is None and not self._answering

    async def _make_room(self) -> None:
        """Reserve memory for the declared body, or for what has arrived of it."""
        needed = COPIES * max(self._declared_bytes, self._size)
        if not self._is_kept or needed <= self._lease.nbytes:
            return
        self._deadline.pause()
        await self._wanted.wait()
        self._lease.client = await self._find_client()
        if await self._lease.resize(needed):
            self._deadline.run()

    def _complete(self) -> None:
        self.received = True
        self._deadline.pause()
        self._lease.complete = True
        is_small = self._size <= SMALL_BODY_BYTES
        self._body = bytes(self._arrived) if is_small else self._arrived
        self._arrived = bytearray()
        self._wanted.set()
        self._body_ready.set()
        self._input_ended.set()

    def _time_out(self, timeout_s: float) -> None:
        self._refuse(BodyTimeout(f"The body took longer than {timeout_s:g} seconds."))

    def _refuse(self, refusal: MlxdError) -> None:
        if self._refusal is None:
            self._refusal = refusal
        self._discard()
        self._body = b""
        self._body_ready.set()

    def _discard(self) -> None:
        """Keep nothing of the body, and receive the rest without a pause."""
        self._deadline.pause()
        self._arrived = bytearray()
        self._lease.close()
        self._wanted.set()

    def _close(self) -> None:
        """The server ended the request; before the response this means a disconnect."""
        if not self.responded:
            self.disconnected = True
            if not self._body_ready.is_set():
                message = "The client disconnected before its body was complete."
                self._refuse(ClientDisconnected(message))
            for callback in self._callbacks:
                _call(callback)
        self._input_ended.set()
        self._closed.set()


class Deadline:
    """Calls `on_end(timeout_s)` once it has run for `timeout_s`; the time of pauses is added."""

    def __init__(self, timeout_s: float, on_end: Callable[[float], None]) -> None:
        self._timeout_s = timeout_s
        self._on_end = on_end
        self._left_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def run(self) -> None:
        """Start, or go on after a pause."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._left_s, self._on_end, self._timeout_s)

    def pause(self) -> None:
        """Stop the time; for good if `run` is not called again."""
        if self._timer is not None:
            self._left_s = max(0.0, self._timer.when() - self._loop.time())
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """Never call `on_end`, which has the deadline."""
        self.pause()
        self._on_end = lambda timeout_s: None


def _check_length(headers: Headers, limit: int) -> MlxdError | None:
    """The error in the declared length of the body; None if it is valid."""
    for length in headers.getlist("content-length"):
        if not (length.isascii() and length.isdigit()):
            return InvalidRequest("The Content-Length is not a number.")
        if len(length) > MAX_LENGTH_DIGITS or int(length) > limit:
            return _too_large(limit)
    return None


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes.")


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("a callback for a disconnect failed")
