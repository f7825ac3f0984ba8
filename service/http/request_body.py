"""One request's incoming side: its body, and whether its client is still there.

Hypercorn (0.18) waits for ever where an application answers and leaves a body
unread, and tells that a client left by a message alone. So one task, the pump,
reads all messages of a request, whatever the endpoint does: it keeps at most the
largest body accepted, discards the rest, and calls who waits for a disconnect.

`RequestReaderMiddleware` belongs outside `ErrorMiddleware`: error responses too must be
sent while the pump runs.
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

# How long a client may go on sending after its answer. Closing at once would reset
# the connection, and the reset may overtake the answer.
LINGER_S = 1.0
MAX_LENGTH_DIGITS = 20


class RequestReaderMiddleware:
    """ASGI middleware that puts an `RequestReader` into `scope["state"]["request_reader"]`."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self._pumps: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_reader = RequestReader(scope, receive, send, self.settings)
        scope.setdefault("state", {})["request_reader"] = request_reader
        read_loop = asyncio.create_task(request_reader.read_loop(), name="request-reader")
        self._pumps.add(read_loop)
        read_loop.add_done_callback(self._pumps.discard)
        try:
            await self.app(scope, request_reader.receive, request_reader.send)
        finally:
            # A response that broke off over an unread body leaves the pump to the
            # server's own closing, which would wait for it.
            if request_reader.answered or request_reader.received:
                read_loop.cancel()
                await asyncio.wait([read_loop])


class RequestReader:
    """The body and the presence of one client.

    `disconnected` is true once it left before its answer was complete, `received`
    once its whole body has come, `answered` once the whole response is on its way.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: Settings) -> None:
        headers = Headers(scope=scope)
        self.disconnected = False
        self.received = not _announces_body(headers) and scope.get("http_version", "1.1") < "2"
        self.answered = False
        self._receive = receive
        self._send = send
        self._max_bytes = settings.max_body_bytes
        self._timeout_s = settings.body_timeout_s
        self._deadline = asyncio.get_running_loop().time() + settings.body_timeout_s
        self._closable = scope.get("http_version", "1.1") < "2"
        self._body = bytearray()
        self._refusal = _refuse_length(headers, settings.max_body_bytes)
        self._read = asyncio.Event()
        self._over = asyncio.Event()
        self._gone = asyncio.Event()
        self._handed_on = False
        self._callbacks: list[Callable[[], None]] = []
        if self.received:
            self._over.set()
        if self.received or self._refusal:
            self._read.set()

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: it is larger than `max_body_bytes`, or says it will be.
            BodyTimeout: it was not complete `body_timeout_s` after the request began.
            InvalidRequest: its declared length is no number.
            ClientDisconnected: the client left before it was complete.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._read.wait()
        except TimeoutError:
            raise BodyTimeout(f"The body took longer than {self._timeout_s:g} seconds.") from None
        if self._refusal is not None:
            raise self._refusal
        return bytes(self._body)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the client leaves before its answer; at once if it has left."""
        if self.disconnected:
            _call(callback)
        else:
            self._callbacks.append(callback)

    async def read_loop(self) -> None:
        """Take all that comes, until the server says that nothing more will."""
        while (message := await self._receive())["type"] != "http.disconnect":
            self._take(message)
        self._leave()

    async def receive(self) -> Message:
        """ASGI's `receive` for what lies inside: the body in one message, then the disconnect."""
        if not self._handed_on:
            self._handed_on = True
            with contextlib.suppress(ClientDisconnected):
                return {"type": "http.request", "body": await self.body(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's `send` for what lies inside; a response over an unread body closes politely."""
        if message["type"] == "http.response.start":
            await self._announce_close(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.answered = True
            if not self._over.is_set():
                await self._send({**message, "more_body": True})
                await self._linger()
                message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._over.wait()

    async def _announce_close(self, start: Message) -> None:
        if not self.received:
            # What has come already is not unread: let the pump have it.
            await asyncio.sleep(0)
        if not self.received and self._closable:
            MutableHeaders(scope=start)["connection"] = "close"

    def _take(self, message: Message) -> None:
        chunk: bytes = message.get("body", b"")
        if self._refusal is None and len(self._body) + len(chunk) > self._max_bytes:
            self._refuse(_too_large(self._max_bytes))
        if self._refusal is None:
            self._body += chunk
        if not message.get("more_body", False):
            self.received = True
            self._read.set()
            self._over.set()

    def _refuse(self, refusal: MlxdError) -> None:
        self._refusal = refusal
        self._body = bytearray()
        self._read.set()

    def _leave(self) -> None:
        """The server ended the exchange: before the answer it is the client who left."""
        if not self.answered:
            self.disconnected = True
            if not self._read.is_set():
                self._refuse(ClientDisconnected("The client left before its body was complete."))
            for callback in self._callbacks:
                _call(callback)
        self._over.set()
        self._gone.set()


def _announces_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _refuse_length(headers: Headers, limit: int) -> MlxdError | None:
    """What is wrong with the length a body declares."""
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
        logger.exception("What was to be done at a disconnect failed")
