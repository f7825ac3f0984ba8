"""JSON bodies: a request's body to a typed struct, and a struct to a response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.errors import JSON_MEDIA_TYPE
from service.http.body_budget import SMALL_BODY_BYTES
from service.http.body_values import estimate_decoded_bytes
from service.http.decoding import DecodingRules, RequestBody, decode_body
from service.http.unknown_fields import ignored_of

BodyT = TypeVar("BodyT", bound=RequestBody)
ResultT = TypeVar("ResultT")

# A thread that works on a body holds the interpreter lock, so that more at once would only need
# more memory.
MAX_LARGE_WORK = 2


class JsonBodies:
    """Reads request bodies. It keeps one decoder for each type."""

    def __init__(self, rules: DecodingRules) -> None:
        self._rules = rules
        self._large_work = asyncio.Semaphore(MAX_LARGE_WORK)
        self._decoders: dict[type[RequestBody], msgspec.json.Decoder[RequestBody]] = {}

    async def read(self, request: Request, kind: type[BodyT]) -> BodyT:
        """The request's body as a valid `kind`.

        A large body is decoded in a thread, so that its rules, which are Python code, do not
        delay other requests. The names of ignored fields become a header of the response.

        Raises:
            MlxdError: the size or the content of the body is invalid, or its client has left.
        """
        reader = request.state.request_reader
        body: bytes | bytearray = await reader.body()
        decode = partial(decode_body, body, self._decoder(kind), self._rules)
        if len(body) > SMALL_BODY_BYTES:
            # Later its text in the message to the worker needs as much as the body does now.
            needed = await self.run(request, partial(estimate_decoded_bytes, body))
            await reader.reserve(len(body) + needed)
        decoded = await self.run(request, decode)
        if len(body) > SMALL_BODY_BYTES:
            reader.discard_body()
        ignored_of(request.scope).extend(decoded.ignored)
        return decoded.request

    async def run(self, request: Request, work: Callable[[], ResultT]) -> ResultT:
        """The result of `work`, which takes time in proportion to the request's body.

        Raises:
            ClientDisconnected: the client of a large body has left before its turn came.
        """
        reader = request.state.request_reader
        if reader.size <= SMALL_BODY_BYTES:
            return work()
        async with self._large_work:
            reader.check_connected()
            return await asyncio.to_thread(work)

    def _decoder(self, kind: type[BodyT]) -> msgspec.json.Decoder[BodyT]:
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.json.Decoder(kind)
        return decoder  # type: ignore[return-value]


def json_response(value: msgspec.Struct, status: int = 200) -> Response:
    """A response with `value` as its body."""
    return Response(msgspec.json.encode(value), status, media_type=JSON_MEDIA_TYPE)
