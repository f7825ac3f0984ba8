"""JSON bodies: a request's body to a typed struct, and a struct to a response."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from protocol.units import MIB
from service.errors import JSON_MEDIA_TYPE, InvalidRequest
from service.http.decoding import RequestBody, UnknownFields, decode_body

BodyT = TypeVar("BodyT", bound=RequestBody)

# A smaller body is decoded within 0.1 s whatever it contains, and within 1 ms if it is text.
LARGE_BODY_BYTES = MIB
# msgspec (0.22) holds the interpreter lock while it parses: 1 ms per MB of text, 5 ms per MB
# of messages, but 90 ms per MB of empty lists. This limits the pause that one body can cause.
MAX_BRACKETS = 2**18


class JsonBodies:
    """Reads request bodies. It keeps one decoder for each type."""

    def __init__(self, unknown_fields: UnknownFields) -> None:
        self._unknown_fields = unknown_fields
        self._decoders: dict[type[RequestBody], msgspec.json.Decoder[RequestBody]] = {}

    async def read(self, request: Request, kind: type[BodyT]) -> BodyT:
        """The request's body as a valid `kind`.

        A large body is decoded in a thread, so that its rules, which are Python code, do not
        delay other requests.

        Raises:
            MlxdError: the size or the content of the body is invalid.
        """
        body: bytes = await request.state.request_reader.body()
        decoder = self._decoder(kind)
        if len(body) < LARGE_BODY_BYTES:
            return decode_body(body, decoder, self._unknown_fields)
        check_brackets(body)
        return await asyncio.to_thread(decode_body, body, decoder, self._unknown_fields)

    def _decoder(self, kind: type[BodyT]) -> msgspec.json.Decoder[BodyT]:
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.json.Decoder(kind)
        return decoder  # type: ignore[return-value]


def check_brackets(body: bytes) -> None:
    """Refuse a body with very many lists and objects. Brackets inside strings count, too.

    Raises:
        InvalidRequest: the body has more than `MAX_BRACKETS` opening brackets.
    """
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        raise InvalidRequest(f"The body has more than {MAX_BRACKETS} opening brackets.")


def json_response(value: msgspec.Struct, status: int = 200) -> Response:
    """A response with `value` as its body."""
    return Response(msgspec.json.encode(value), status, media_type=JSON_MEDIA_TYPE)
