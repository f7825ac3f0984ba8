"""The endpoints of messages: answers, and the tokens of prompts."""

from __future__ import annotations

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from protocol.encoding import encode
from protocol.tokenization import Tokenize
from service.api.messages.format import OWN_NAMES, MessagesFormat
from service.api.messages.request import CountTokensRequest, MessagesRequest
from service.errors import explained
from service.generation.endpoint import GenerationEndpoint
from service.generation.event_stream import EventStream
from service.generation.submitter import Submitter
from service.http.json_io import json_response
from service.http.unknown_fields import ignored_of
from service.store.encoded_thinking import EncodedThinking


class TokenCount(msgspec.Struct, frozen=True):
    """The tokens of a prompt."""

    input_tokens: int


class MessagesEndpoint:
    """Answers conversations, and counts the tokens of their prompts."""

    def __init__(
        self, submitter: Submitter, thinking: EncodedThinking, *, keep_alive_s: float
    ) -> None:
        self._format = MessagesFormat(thinking)
        self._submitter = submitter
        self._generation: GenerationEndpoint[MessagesRequest] = GenerationEndpoint(
            self._format, submitter, keep_alive_s=keep_alive_s
        )

    async def create(self, http_request: Request) -> Response | EventStream:
        """The answer, whole or as a stream."""
        response = await self._generation.create(http_request)
        name_ignored(http_request)
        return response

    async def count_tokens(self, http_request: Request) -> Response:
        """The tokens of the prompt that the same conversation has when it is answered."""
        with explained(self._format.explain):
            request = await self._submitter.read(http_request, CountTokensRequest)
            model = self._submitter.resolve(request.model)
            prompt = await self._submitter.run(http_request, partial(self._encode_prompt, request))
            tokenize = Tokenize(id=0, model=model, prompt=prompt, param="messages")
            result = await self._submitter.tokenize(http_request, tokenize)
        name_ignored(http_request)
        return json_response(TokenCount(result.count))

    def _encode_prompt(self, request: CountTokensRequest) -> msgspec.Raw:
        return msgspec.Raw(encode(self._format.to_prompt(request)))


def name_ignored(http_request: Request) -> None:
    """Name the parameters that the model ignores as this API does."""
    ignored = ignored_of(http_request.scope)
    ignored[:] = [OWN_NAMES.get(name, name) for name in ignored]
