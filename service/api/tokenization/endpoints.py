"""POST /tokenize, /detokenize and /apply-template, GET /tokenizer_info: a model's tokenizer alone.

The worker converts, beside its device, and sends results as JSON, which is only copied here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from protocol.encoding import encode
from protocol.messages import Prompt, TextPrompt, TokenPrompt
from protocol.tokenization import Tokenize, TokenStrings
from service.api.chat.format import ChatFormat
from service.errors import JSON_MEDIA_TYPE
from service.generation.submitter import Submitter
from service.http.json_io import json_response
from service.schema.tokenization import (
    ApplyTemplateRequest,
    ContentTokens,
    DetokenizeRequest,
    DetokenizeResponse,
    RenderedTemplate,
    TokenizeRequest,
    TokenizeResponse,
)


class TokenizationEndpoints:
    """Requests for a model's tokenizer. They wait and are cancelled as generations are."""

    def __init__(self, chat_format: ChatFormat, submitter: Submitter) -> None:
        self._chat_format = chat_format
        self._submitter = submitter

    async def tokenize(self, http_request: Request) -> Response:
        """The token ids of a text, or of the prompt that a chat completion would have."""
        request = await self._submitter.read(http_request, TokenizeRequest)
        model = self._submitter.resolve(request.model, None)
        convert = partial(to_tokenize, self._chat_format, request, model)
        tokenize = await self._submitter.run(http_request, convert)
        result = await self._submitter.tokenize(http_request, tokenize)
        if request.content is not None:
            return json_response(ContentTokens(tokens=embed(result.value)))
        return json_response(
            TokenizeResponse(
                count=result.count,
                max_model_len=result.context_length,
                tokens=embed(result.value),
                token_strs=embed(result.strings) if result.strings else None,
            )
        )

    async def detokenize(self, http_request: Request) -> Response:
        """The text of token ids."""
        request = await self._submitter.read(http_request, DetokenizeRequest)
        model = self._submitter.resolve(request.model, None)
        prompt = TokenPrompt(request.tokens)
        tokenize = Tokenize(id=0, model=model, prompt=as_raw(prompt), param="tokens")
        text = embed((await self._submitter.tokenize(http_request, tokenize)).value)
        return json_response(DetokenizeResponse(prompt=text, content=text))

    async def apply_template(self, http_request: Request) -> Response:
        """The text that the chat template makes of messages."""
        request = await self._submitter.read(http_request, ApplyTemplateRequest)
        model = self._submitter.resolve(request.model, None)
        convert = partial(to_template_request, self._chat_format, request, model)
        tokenize = await self._submitter.run(http_request, convert)
        result = await self._submitter.tokenize(http_request, tokenize)
        return json_response(RenderedTemplate(prompt=embed(result.value)))

    async def describe(self, http_request: Request) -> Response:
        """The tokenizer's configuration, of the model that the query parameter `model` names."""
        model = self._submitter.resolve(http_request.query_params.get("model"), None)
        tokenize = Tokenize(id=0, model=model, prompt=as_raw(None), param="model")
        result = await self._submitter.tokenize(http_request, tokenize)
        return Response(result.value, media_type=JSON_MEDIA_TYPE)


def to_tokenize(chat_format: ChatFormat, request: TokenizeRequest, model: str) -> Tokenize:
    """The request for the worker; the prompt of messages is that of a chat completion."""
    special_tokens = request.add_special_tokens
    strings: TokenStrings = "vocabulary" if request.return_token_strs else "none"
    if request.messages is not None:
        chat = request.to_chat(request.messages, model)
        return Tokenize(
            id=0,
            model=model,
            prompt=as_raw(chat_format.to_prompt(chat)),
            param="messages",
            special_tokens=bool(special_tokens),
            strings=strings,
        )
    if request.prompt is not None:
        return Tokenize(
            id=0,
            model=model,
            prompt=as_raw(TextPrompt(request.prompt)),
            param="prompt",
            special_tokens=special_tokens is not False,
            strings=strings,
        )
    return Tokenize(
        id=0,
        model=model,
        prompt=as_raw(TextPrompt(request.content or "")),
        param="content",
        special_tokens=bool(request.add_special),
        parse_special=request.parse_special is not False,
        strings="pieces" if request.with_pieces else "none",
    )


def to_template_request(
    chat_format: ChatFormat, request: ApplyTemplateRequest, model: str
) -> Tokenize:
    """The request for the worker, with the prompt that a chat completion would have."""
    chat = request.to_chat(request.messages, model)
    return Tokenize(
        id=0,
        model=model,
        prompt=as_raw(chat_format.to_prompt(chat)),
        param="messages",
        as_text=True,
    )


def as_raw(prompt: Prompt | None) -> msgspec.Raw:
    """The prompt as it is sent to the worker."""
    return msgspec.Raw(encode(prompt))


def embed(json: bytes) -> Any:
    """A value that is JSON already, for a field of a response."""
    return msgspec.Raw(json)
