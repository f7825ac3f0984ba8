"""JSON bodies: a request's body to a typed struct, and a struct to a response."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from protocol.units import MIB
from service.errors import JSON_MEDIA_TYPE, InvalidRequest
from service.http.body_budget import SMALL_BODY_BYTES
from service.http.decoding import Decoded, DecodingRules, RequestBody, decode_body
from service.http.unknown_fields import ignored_of

BodyT = TypeVar("BodyT", bound=RequestBody)

# A smaller body is decoded within 0.1 s whatever it contains, and within 1 ms if it is text.
LARGE_BODY_BYTES = MIB
# msgspec (0.22) holds the interpreter lock while it parses: 1 ms per MB of text, 5 ms per MB
# of messages, but 90 ms per MB of empty lists. This limits the pause that one body can cause.
MAX_BRACKETS = 2**18
# A decoder holds the interpreter lock, so that more at once would only need more memory.
MAX_LARGE_DECODES = 2
# Python stores a text with one character from here on with this many bytes for each character.
WIDE_TEXTS = (
    (4, re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")),
    (2, re.compile(rb"[\xc4-\xef]|\\u")),
)
# Of a decoded element of a list or an object, besides its text.
ELEMENT_BYTES = 40


class JsonBodies:
    """Reads request bodies. It keeps one decoder for each type."""

    def __init__(self, rules: DecodingRules) -> None:
        self._rules = rules
        self._large_decodes = asyncio.Semaphore(MAX_LARGE_DECODES)
        self._decoders: dict[type[RequestBody], msgspec.json.Decoder[RequestBody]] = {}

    async def read(self, request: Request, kind: type[BodyT]) -> BodyT:
        """The request's body as a valid `kind`.

        A large body is decoded in a thread, so that its rules, which are Python code, do not
        delay other requests. The names of ignored fields become a header of the response.

        Raises:
            MlxdError: the size or the content of the body is invalid.
        """
        reader = request.state.request_reader
        body: bytes = await reader.body()
        decoder = self._decoder(kind)
        if len(body) <= SMALL_BODY_BYTES:
            decoded = decode_body(body, decoder, self._rules)
        else:
            # Later its text in the message to the worker needs as much as the body does now.
            await reader.reserve(len(body) + estimate_decoded_bytes(body))
            decoded = await self._decode_large(body, decoder)
            reader.discard_body()
        ignored_of(request.scope).extend(decoded.ignored)
        return decoded.request

    async def _decode_large(
        self, body: bytes, decoder: msgspec.json.Decoder[BodyT]
    ) -> Decoded[BodyT]:
        if len(body) < LARGE_BODY_BYTES:
            return decode_body(body, decoder, self._rules)
        check_brackets(body)
        async with self._large_decodes:
            return await asyncio.to_thread(decode_body, body, decoder, self._rules)

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


def estimate_decoded_bytes(body: bytes) -> int:
    """The memory of a decoded body, rather too much than too little.

    Its text takes one byte for each character, or more if it has wide ones; its numbers, strings
    and objects, which commas separate, have a size of their own.
    """
    width = 1
    if not body.isascii() or b"\\u" in body:
        width = next((width for width, wide in WIDE_TEXTS if wide.search(body)), 1)
    return len(body) * width + min(ELEMENT_BYTES * body.count(b","), 8 * len(body))


def json_response(value: msgspec.Struct, status: int = 200) -> Response:
    """A response with `value` as its body."""
    return Response(msgspec.json.encode(value), status, media_type=JSON_MEDIA_TYPE)
