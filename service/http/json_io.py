"""JSON in and out: a request's body to a typed struct, a struct to a response."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.errors import InvalidRequest
from service.http.decoding import RequestBody, UnknownFields, decode_body

BodyT = TypeVar("BodyT", bound=RequestBody)

# Less is decoded within a tenth of a second, whatever it holds, and texts in a millisecond.
LARGE_BODY_BYTES = 2**20
# msgspec (0.22) holds the interpreter lock while it parses: 1 ms a MB of text, 5 of
# messages, but 90 of empty lists. This bounds the pause that one body can cause.
MAX_BRACKETS = 2**18


class JsonBodies:
    """Reads bodies; one decoder for each type, made once."""

    def __init__(self, unknown_fields: UnknownFields) -> None:
        self._unknown_fields = unknown_fields
        self._decoders: dict[type[RequestBody], msgspec.json.Decoder[RequestBody]] = {}

    async def read(self, request: Request, kind: type[BodyT]) -> BodyT:
        """The request's body as a `kind` whose rules are kept.

        A large one is decoded in a thread, so that the rules, which are Python, do not hold
        up the other requests.

        Raises:
            MlxdError: what is wrong with its size or its content.
        """
        body: bytes = await request.state.request_reader.body()
        decoder = self._decoder(kind)
        if len(body) < LARGE_BODY_BYTES:
            return decode_body(body, decoder, self._unknown_fields)
        check_brackets(body)
        return await asyncio.to_thread(decode_body, body, decoder, self._unknown_fields)

    def _decoder(self, kind: type[BodyT]) -> msgspec.json.Decoder[BodyT]:
        found = self._decoders.get(kind)
        if found is None:
            found = self._decoders[kind] = msgspec.json.Decoder(kind)
        return found  # type: ignore[return-value]


def check_brackets(body: bytes) -> None:
    """Refuse a body of very many lists and objects. Brackets in its texts count, too.

    Raises:
        InvalidRequest: there are more than `MAX_BRACKETS`.
    """
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        raise InvalidRequest(f"The body has more than {MAX_BRACKETS} opening brackets.")


def json_response(value: msgspec.Struct, status: int = 200) -> Response:
    """`value` as the whole response."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")
