"""HTTP/1.1 for the load's clients: one connection, and little work for each part of a stream.

httpx's own transport (httpcore 1.0, h11 0.16) passes each chunk through events, locks and
cancellation scopes. On a machine that clients and server share this took more processor time for
a token than the service itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx

READ_BYTES = 256 * 1024
LINE_END = b"\r\n"
HEAD_END = b"\r\n\r\n"
# More bytes without the end of a head, or of the size of a chunk, are an error.
MAX_HEAD_BYTES = 64 * 1024


class Chunks:
    """Takes the framing of a chunked body away; `ended` behind its last chunk. No trailers."""

    def __init__(self) -> None:
        self.ended = False
        self._rest = b""
        # What is missing of the current chunk, with the line end behind it.
        self._left = 0
        self._is_last = False

    def feed(self, data: bytes) -> bytes:
        """The content of these bytes.

        Raises:
            ValueError: they are not chunks.
        """
        data, content, start = self._rest + data, [], 0
        while start < len(data) and not self.ended:
            if self._left:
                end = min(start + self._left, len(data))
                self._left -= end - start
                # What is taken of the line end is no content.
                content_end = end - max(0, len(LINE_END) - self._left)
                content.append(data[start : max(start, content_end)])
                start = end
                self.ended = self._is_last and not self._left
                continue
            line_end = data.find(LINE_END, start)
            if line_end < 0:
                break
            size = int(data[start:line_end].partition(b";")[0], 16)
            self._left, self._is_last = size + len(LINE_END), not size
            start = line_end + len(LINE_END)
        self._rest = data[start:]
        if len(self._rest) > MAX_HEAD_BYTES:
            raise ValueError("a chunk has no size")
        return b"".join(content)


class Body(httpx.AsyncByteStream):
    """The body of a response; `rest` are its first bytes. The connection may be kept behind it."""

    def __init__(
        self, connection: Connection, headers: httpx.Headers, rest: bytes, *, may_be_kept: bool
    ) -> None:
        self._connection = connection
        self._rest = rest
        self._chunks = Chunks() if headers.get("transfer-encoding") == "chunked" else None
        length = headers.get("content-length")
        self._left = None if length is None else int(length)
        self._is_kept = may_be_kept and headers.get("connection", "").lower() != "close"
        self._has_ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        data = self._rest
        while True:
            try:
                content = self._take(data)
            except ValueError as error:
                raise httpx.RemoteProtocolError(str(error)) from error
            if content:
                yield content
            if self._has_ended:
                return
            data = await self._connection.read()
            if not data:
                if self._chunks is not None or self._left is not None:
                    raise httpx.RemoteProtocolError("the connection ended within the body")
                return

    def _take(self, data: bytes) -> bytes:
        if self._chunks is not None:
            content = self._chunks.feed(data)
            self._has_ended = self._chunks.ended
            return content
        if self._left is not None:
            self._left -= len(data)
            self._has_ended = self._left <= 0
        return data

    async def aclose(self) -> None:
        self._connection.rest()
        if not (self._has_ended and self._is_kept):
            self._connection.close()


class Connection(httpx.AsyncBaseTransport):
    """A transport of one connection, which is opened again where the server has closed it.

    It sends one request at a time, over HTTP without TLS. It is closed when a read waits for
    `timeout_s`.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        # Of the read that waits, or of the last one.
        self._read_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            head, rest = await self._exchange(request)
        except (OSError, EOFError) as error:
            self.close()
            raise httpx.ConnectError(str(error)) from error
        status, *lines = head.split(LINE_END)
        pairs = [line.partition(b":")[::2] for line in lines]
        headers = httpx.Headers([(name, value.strip()) for name, value in pairs])
        body = Body(self, headers, rest, may_be_kept=status.startswith(b"HTTP/1.1"))
        return httpx.Response(int(status.split()[1]), headers=headers, stream=body)

    async def _exchange(self, request: httpx.Request) -> tuple[bytes, bytes]:
        """Send the request; the head of its response, and what came with it."""
        if self._streams is None or self._streams[0].at_eof():
            url = request.url
            self.close()
            self._streams = await asyncio.open_connection(url.host, url.port, limit=READ_BYTES)
        self._read_at = asyncio.get_running_loop().time()
        self._watch()
        line = b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)
        fields = [b"%b: %b" % pair for pair in request.headers.raw]
        body = await request.aread()
        self._streams[1].write(LINE_END.join([line, *fields, b"", body]))
        received = b""
        while HEAD_END not in received:
            if not (data := await self.read()) or len(received) > MAX_HEAD_BYTES:
                raise EOFError("no head of a response")
            received += data
        head, _, rest = received.partition(HEAD_END)
        return head, rest

    async def read(self) -> bytes:
        """The next bytes; none at the end.

        Raises:
            httpx.ReadError: the connection failed.
        """
        if self._streams is None:
            raise httpx.ReadError("the connection is closed")
        self._read_at = asyncio.get_running_loop().time()
        try:
            return await self._streams[0].read(READ_BYTES)
        except OSError as error:
            raise httpx.ReadError(str(error)) from error

    def _watch(self) -> None:
        """Close the connection once a read has waited for too long: one timer for all of them."""
        loop = asyncio.get_running_loop()
        due = self._read_at + self._timeout_s
        if loop.time() < due:
            self._timer = loop.call_at(due, self._watch)
        else:
            self.close()

    def rest(self) -> None:
        """Wait without limit for the next request."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Close the connection; what has not been sent is lost."""
        self.rest()
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def aclose(self) -> None:
        self.close()
