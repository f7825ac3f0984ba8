"""Reads one request: its body, and whether its client has disconnected.

Hypercorn (0.18) waits without limit if an application responds and leaves a body unread,
and it reports a disconnect only as a message. So one task per request, the read loop,
receives all messages, whatever the endpoint does: it keeps at most the largest accepted
body, discards the rest, and calls the callbacks for a disconnect.

`RequestReaderMiddleware` must be outside `ErrorMiddleware`: the read loop must run while
an error response is sent, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.config.settings import Settings
from service.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientDisconnected,
    InvalidRequest,
    MlxdError,
)

logger = logging.getLogger(__name__)

# How long a client may go on sending after the response. Closing at once would reset the
# connection, and the reset may arrive before the response.
LINGER_S = 1.0
MAX_LENGTH_DIGITS = 20


class RequestReaderMiddleware:
    """ASGI middleware that puts a `RequestReader` into `scope["state"]["request_reader"]`."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_reader = RequestReader(scope, receive, send, settings=self.settings)
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


class RequestReader:
    """The body of one request, and the state of its client's connection.

    - `disconnected`: the client disconnected before the response was complete.
    - `received`: the whole body has arrived.
    - `responded`: the whole response has been passed on.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: Settings) -> None:
        headers = Headers(scope=scope)
        self.disconnected = False
        self.received = not _has_body(headers)
        self.responded = False
        self._receive = receive
        self._send = send
        self._max_bytes = settings.max_body_bytes
        self._timeout_s = settings.body_timeout_s
        self._deadline = asyncio.get_running_loop().time() + settings.body_timeout_s
        self._body = bytearray()
        self._refusal = _check_length(headers, settings.max_body_bytes)
        # The body is complete or refused.
        self._body_ready = asyncio.Event()
        # The client sends nothing more.
        self._input_ended = asyncio.Event()
        # The server reported the end of the request.
        self._closed = asyncio.Event()
        self._body_delivered = False
        self._callbacks: list[Callable[[], None]] = []
        if self.received:
            self._input_ended.set()
        if self.received or self._refusal:
            self._body_ready.set()

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: the body or its declared length is larger than `max_body_bytes`.
            BodyTimeout: the body was not complete `body_timeout_s` after the request began.
            InvalidRequest: the declared length is not a number.
            ClientDisconnected: the client disconnected before the body was complete.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._body_ready.wait()
        except TimeoutError:
            raise BodyTimeout(f"The body took longer than {self._timeout_s:g} seconds.") from None
        if self._refusal is not None:
            raise self._refusal
        return bytes(self._body)

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
            self._add(message)
        self._close()

    async def receive(self) -> Message:
        """ASGI's `receive` for the app: the body in one message, then the disconnect."""
        if not self._body_delivered:
            self._body_delivered = True
            with contextlib.suppress(ClientDisconnected):
                return {"type": "http.request", "body": await self.body(), "more_body": False}
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's `send` for the app. After a response to an unread body the connection closes."""
        if message["type"] == "http.response.start":
            await self._add_close_header(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.responded = True
            if not self._input_ended.is_set():
                await self._send({**message, "more_body": True})
                await self._linger()
                message = {"type": "http.response.body", "body": b""}
        await self._send(message)

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

    def _add(self, message: Message) -> None:
        chunk: bytes = message.get("body", b"")
        if self._refusal is None and len(self._body) + len(chunk) > self._max_bytes:
            self._refuse(_too_large(self._max_bytes))
        if self._refusal is None:
            self._body += chunk
        if not message.get("more_body", False):
            self.received = True
            self._body_ready.set()
            self._input_ended.set()

    def _refuse(self, refusal: MlxdError) -> None:
        self._refusal = refusal
        self._body = bytearray()
        self._body_ready.set()

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


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


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
