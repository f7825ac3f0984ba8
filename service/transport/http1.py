"""Hypercorn's HTTP/1.1 protocol with RFC 9112's rules for framing, targets and refusals.

It differs from Hypercorn (0.18) and h11 (0.16) in these points:

- A request that cannot be parsed gets the JSON error body, and then the connection closes.
- After a request with both `Transfer-Encoding` and `Content-Length` the connection closes, and
  nothing that follows it is served (RFC 9112 section 6.1).
- Bytes after the last request of a connection are ignored; h11 reports them as an error.
- A target in absolute form is served, and its authority replaces the `Host` (section 3.2.2).
- Empty lines before a request are ignored (section 2.2).
- `100 Continue` is sent when the body is wanted, not before the headers are judged.
- A method that is not in upper case is a 501 (RFC 9110 section 9.1): methods are case-sensitive.
  Hypercorn serves `head` as `HEAD`, and h11 then misses the body. The app refuses the others.
- White space may stand before a chunk's extensions (RFC 9112 section 7.1.1).
- HTTP/2 in clear text is a 505. An `Upgrade`, to HTTP/2 or to WebSocket, is ignored, as
  RFC 9110 section 7.8 permits.
- A chunk of a response is framed directly. Hypercorn passes it through h11's events and checks,
  which is most of the time that it spends on a token; h11's state does not depend on it.
- The small chunks of a request are joined (`joined_chunks`).
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import h11
from h11._readers import ChunkedReader
from h11._writers import ChunkedWriter
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.typing import ConnectionState

from service.config.secrets import CONCEALED, names_secret
from service.errors import (
    HeadersTooLarge,
    HttpVersionNotSupported,
    InvalidRequest,
    MethodNotSupported,
    MlxdError,
    TransferCodingNotSupported,
    excerpt,
)
from service.http.anthropic_errors import REQUEST_ID_HEADER as ANTHROPIC_ID_HEADER
from service.http.anthropic_errors import VERSION_HEADER, is_anthropic, render_for
from service.http.error_middleware import REQUEST_ID_HEADER
from service.http.request_body import SEND_CONTINUE
from service.http.response_parts import PART_WRITER, SEND_PART, PartWriter
from service.transport.joined_chunks import JoinedChunks

VERSIONS = (b"1.0", b"1.1")
EMPTY_LINES = (b"\r\n", b"\n")
# No more can come from the client, or nothing more is read from it.
ENDED_STATES = (h11.MUST_CLOSE, h11.CLOSED)
ABSOLUTE_FORM = re.compile(
    rb"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>.*)"
)
CLOSE = (b"connection", b"close")
# Enough of a request to see what is asked, where it cannot be parsed.
MAX_HEAD_BYTES = 4096
MAX_SHOWN_METHOD_CHARS = 20
REQUEST_LINE = re.compile(rb"\S+ (?:[A-Za-z][A-Za-z0-9+.-]*://[^/? ]*)?(?P<path>/[^? ]*)")
# How h11 quotes the client's bytes in its errors.
QUOTED_BYTES = re.compile(r"bytearray\(b(?P<quote>['\"])(?P<bytes>.*?)(?P=quote)\)")


class Parser(h11.Connection):
    """h11's parser, without its answers to empty lines, late bytes and `Expect`.

    Small chunks are joined.
    `fault` says why the client's bytes cannot be parsed. `head` is the beginning of the request.
    """

    fault = ""
    head = b""

    @property
    def they_are_waiting_for_100_continue(self) -> bool:
        """Always False: Hypercorn would send `100 Continue` before the headers are judged."""
        return False

    def _get_io_object(self, *arguments: Any) -> Any:
        found = super()._get_io_object(*arguments)
        return JoinedChunks() if type(found) is ChunkedReader else found

    def receive_data(self, data: bytes) -> None:
        if not data or self.their_state not in ENDED_STATES:
            super().receive_data(data)

    def next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        buffer = self._receive_buffer
        if self.their_state is h11.IDLE and not self._receive_buffer_closed:
            while buffer._data.startswith(EMPTY_LINES):
                buffer.maybe_extract_at_most(buffer._data.index(b"\n") + 1)
            if buffer._data == b"\r":
                return h11.NEED_DATA
            self.head = bytes(buffer._data[:MAX_HEAD_BYTES])
        elif self.their_state in ENDED_STATES:
            buffer.maybe_extract_at_most(len(buffer))
        try:
            return super().next_event()
        except h11.RemoteProtocolError as error:
            self.fault = self.fault or str(error)
            # h11's traceback has a frame that has the error: a cycle, which keeps the connection.
            raise error.with_traceback(None) from None


class Http1(H11Protocol):
    """HTTP/1.0 and 1.1 only; a client cannot switch to another protocol.

    `linger` is awaited between the answer to an invalid request and the end of the connection.
    `writer` writes bytes of the connection.
    """

    def __init__(
        self, *, linger: Callable[[], Awaitable[None]], writer: PartWriter, **parts: Any
    ) -> None:
        super().__init__(**parts)
        self.connection = Parser(
            h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size
        )
        self.connection_state = ConnectionState(
            {
                SEND_CONTINUE: self._send_continue,
                SEND_PART: self.send_part,
                PART_WRITER: ChunkWriter(self, writer),
            }
        )
        self._linger = linger
        self._must_close = False
        self._is_refused = False
        self.sends_chunks = False

    def release(self) -> None:
        """Drop what refers back to this protocol; its connection has ended."""
        self.connection_state.clear()

    async def handle(self, event: Event) -> None:
        if self._is_refused and isinstance(event, RawData):
            return
        try:
            await super().handle(event)
        except MlxdError as error:
            await self._refuse(error)
            await self.send(Closed())

    async def send_part(self, part: bytes) -> None:
        """Send a part of the body of a response that has started."""
        if not part:
            # As a chunk it would be the end.
            return
        if self.sends_chunks:
            await self.send(RawData(data=to_chunk(part)))
        else:
            await super().stream_send(Body(stream_id=STREAM_ID, data=part))

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Body) and event.data:
            await self.send_part(event.data)
            return
        if isinstance(event, Response) and self._must_close:
            headers = [pair for pair in event.headers if pair[0].lower() != b"connection"]
            event = dataclasses.replace(event, headers=[*headers, CLOSE])
        # What follows the end of a body is none of its parts.
        self.sends_chunks = False
        await super().stream_send(event)
        self.sends_chunks = sends_chunks(self.connection)

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.http_version not in VERSIONS:
            raise HttpVersionNotSupported("Only the versions 1.0 and 1.1 of HTTP are supported.")

    async def _create_stream(self, request: h11.Request) -> None:
        if request.method != request.method.upper():
            method = excerpt(request.method.decode("ascii"), MAX_SHOWN_METHOD_CHARS)
            raise MethodNotSupported(f"`{method}` is no method: methods are written in upper case.")
        target, authority = split_target(request, tls=self.ssl)
        names = {name for name, _ in request.headers}
        self._must_close = {b"transfer-encoding", b"content-length"} <= names
        headers = served_headers(request, authority, without_length=self._must_close)
        await super()._create_stream(
            h11.Request(
                method=request.method,
                target=target,
                headers=headers,
                http_version=request.http_version,
            )
        )

    async def _send_continue(self) -> None:
        """Tell a client that waits for it to send its body."""
        waits = getattr(self.connection, "client_is_waiting_for_100_continue", False)
        if waits and self.connection.our_state is h11.SEND_RESPONSE:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def _send_error_response(self, status_code: int) -> None:
        """Hypercorn calls this for bytes that cannot be parsed; then it closes the connection."""
        if status_code == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            limit = self.config.h11_max_incomplete_size
            text = f"The request line and the headers are larger than {limit} bytes."
            await self._refuse(HeadersTooLarge(text))
            return
        fault = QUOTED_BYTES.sub(quote, getattr(self.connection, "fault", "").rstrip("."))
        is_coding = status_code == HTTPStatus.NOT_IMPLEMENTED
        kind = TransferCodingNotSupported if is_coding else InvalidRequest
        await self._refuse(kind(f"The request is not valid HTTP: {fault}."))

    async def _refuse(self, error: MlxdError) -> None:
        self._is_refused = True
        await self._close_stream()
        request_id = f"req_{uuid.uuid4().hex}"
        path, markers = read_head(getattr(self.connection, "head", b""))
        status, headers, body = render_for(error, path, markers, request_id)
        names = [REQUEST_ID_HEADER]
        if is_anthropic(path, markers):
            names.append(ANTHROPIC_ID_HEADER)
        ids = [(name.encode(), request_id.encode()) for name in names]
        kept = [pair for pair in headers if pair != CLOSE]
        own = [*kept, CLOSE, *ids, *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=status, headers=own))
        if self.connection._request_method != b"HEAD":  # type: ignore[union-attr]
            await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())
        await self._linger()


class ChunkWriter:
    """Writes the chunks of a response that has begun, through the connection's own writer."""

    def __init__(self, http: Http1, writer: PartWriter) -> None:
        self._http = http
        self._writer = writer

    @property
    def is_ready(self) -> bool:
        return self._http.sends_chunks and self._writer.is_ready

    def write(self, part: bytes) -> None:
        self._writer.write(to_chunk(part))


def to_chunk(part: bytes) -> bytes:
    """A part of a body as a chunk. One that is empty would be the end."""
    return b"%x\r\n%b\r\n" % (len(part), part)


def quote(match: re.Match[str]) -> str:
    """The client's bytes as an error shows them: not those of a header that may be a key."""
    return f"`{CONCEALED if names_secret(match['bytes']) else match['bytes']}`"


def sends_chunks(connection: h11.Connection | H11WSConnection) -> bool:
    """Whether the response that is being sent has a chunked body.

    h11 (0.16) does not expose the framing that it chose, but its writer's type shows it.
    """
    return (
        isinstance(connection, h11.Connection)
        and connection.our_state is h11.SEND_BODY
        and isinstance(connection._writer, ChunkedWriter)
    )


def read_head(head: bytes) -> tuple[str, list[tuple[bytes, bytes]]]:
    """The path of a request that may be malformed, and its header of Anthropic's version."""
    match = REQUEST_LINE.match(head)
    path = match["path"].decode("latin-1") if match else ""
    has_version = b"\n" + VERSION_HEADER + b":" in head.lower()
    return path, [(VERSION_HEADER, b"")] if has_version else []


def split_target(request: h11.Request, *, tls: bool) -> tuple[bytes, bytes | None]:
    """The path with its query, and the authority if the target is in absolute form.

    Raises:
        InvalidRequest: the target is in none of the forms that RFC 9112 section 3.2 has.
    """
    target = request.target
    if target.startswith(b"/") or request.method == b"CONNECT":
        return target, None
    if target == b"*" and request.method == b"OPTIONS":
        return target, None
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise InvalidRequest("The request's target is neither a path nor a URL.")
    if match["scheme"].lower() not in ((b"http", b"https") if tls else (b"http",)):
        raise InvalidRequest("The request's target is a URL of another scheme.")
    if not match["authority"] or b"@" in match["authority"]:
        raise InvalidRequest("The request's target is a URL without a host, or with a user.")
    path = match["path"] or (b"*" if request.method == b"OPTIONS" else b"/")
    return path + match["query"].partition(b"#")[0], match["authority"]


def served_headers(
    request: h11.Request, authority: bytes | None, *, without_length: bool
) -> list[tuple[bytes, bytes]]:
    """The headers that the app gets: no `Upgrade`, and the authority of the target as `Host`."""
    dropped = {b"upgrade"}
    if authority is not None:
        dropped.add(b"host")
    if without_length:
        dropped.add(b"content-length")
    headers = [pair for pair in request.headers if pair[0] not in dropped]
    return headers if authority is None else [(b"host", authority), *headers]
