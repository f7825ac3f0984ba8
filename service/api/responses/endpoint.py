"""POST /v1/responses, and the number of tokens that a response's input would have."""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response as HttpResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from protocol.encoding import encode
from protocol.messages import Submit
from protocol.tokenization import Tokenize
from service.api.responses.background import BackgroundAnswer, BackgroundRun, BackgroundRuns
from service.api.responses.format import (
    ResponseFormat,
    Turn,
    advise,
    finish,
    left_out_of,
)
from service.api.responses.output.items import Output
from service.api.responses.output.stream import ResponseWriter
from service.api.responses.shapes.request import PromptRequest, ResponseRequest, TokenCountRequest
from service.api.responses.shapes.response import InputTokens
from service.api.responses.stored import (
    ItemResolver,
    keep,
    owner_of,
    read_items,
    store_response,
)
from service.errors import InvalidRequest, explained
from service.generation.dialect import ResponseHeader
from service.generation.endpoint import make_header
from service.generation.event_stream import EventStream
from service.generation.logprob_encoder import LogprobGate
from service.generation.submitter import Submitter
from service.http.error_middleware import DROPPED_HEADER, LEFT_OUT_HEADER, added_headers
from service.http.json_io import json_response
from service.http.unknown_fields import header_of
from service.inflight.request import InflightRequest
from service.requestlog.record import record_of
from service.store.open_response import OpenResponse
from service.store.opening import Stores

logger = logging.getLogger(__name__)

PromptT = TypeVar("PromptT", bound=PromptRequest)


class Opened(NamedTuple):
    """A request with its model, the items before it, and its response in the store."""

    http_request: Request
    request: ResponseRequest
    model: str
    turn: Turn
    response: OpenResponse

    @property
    def id(self) -> str:
        """The response's id."""
        return self.response.id

    async def end(self, writer: ResponseWriter) -> None:
        """Store the response as it has ended."""
        if writer.ended is not None:
            await keep(self.response, writer.ended)


class ResponsesEndpoint:
    """Creates responses: at once, as a stream, or in the background."""

    def __init__(
        self,
        response_format: ResponseFormat,
        submitter: Submitter,
        stores: Stores,
        runs: BackgroundRuns,
        *,
        keep_alive_s: float,
    ) -> None:
        self._format = response_format
        self._submitter = submitter
        self._store = stores.responses
        self._ids = stores.ids
        self._resolver = ItemResolver(stores, response_format.thinking)
        self._runs = runs
        self._keep_alive_s = keep_alive_s

    async def create(self, http_request: Request) -> ASGIApp:
        """The response to one request.

        Raises:
            MlxdError: before the response starts; later errors are events of the stream.
        """
        request = await self._read(http_request, ResponseRequest)
        with explained(self._format.explain):
            return await self._create(http_request, request)

    async def count(self, http_request: Request) -> HttpResponse:
        """The number of tokens of the prompt that a response would have."""
        request = await self._read(http_request, TokenCountRequest)
        with explained(self._format.explain):
            model = self._submitter.resolve(request.model or None)
            async with await self._open(http_request, request) as response:
                items, _ = await self._resolver.resolve(request.items, owner_of(http_request))
                earlier = await read_items(response.context)
            make = partial(self._format.to_prompt, request, items, earlier)
            encoded = await self._submitter.run(http_request, lambda: msgspec.Raw(encode(make())))
            tokenize = Tokenize(id=0, model=model, prompt=encoded, param="input")
            result = await self._submitter.tokenize(http_request, tokenize)
        return json_response(InputTokens(input_tokens=result.count))

    async def _read(self, http_request: Request, kind: type[PromptT]) -> PromptT:
        try:
            request = await self._submitter.read(http_request, kind)
        except InvalidRequest as error:
            advise(error)
            raise
        self._format.check(request)
        return request

    async def _create(self, http_request: Request, request: ResponseRequest) -> ASGIApp:
        request = with_store(request, self._store.is_on)
        tell_left_out(http_request, request)
        model = self._submitter.resolve(request.model)
        request = self._submitter.fill(request, model)
        async with contextlib.AsyncExitStack() as stack:
            response = await stack.enter_async_context(await self._open(http_request, request))
            record_of(http_request.scope).answer_id = response.id
            items, response.inputs = await self._resolver.resolve(
                request.items, owner_of(http_request)
            )
            earlier = await read_items(response.context)
            turn = Turn(request, items, earlier)
            opened = Opened(http_request, request, model, turn, response)
            answer = await self._answer(opened)
            if isinstance(answer, HttpResponse):
                return answer
            # From here on the answer closes it.
            stack.pop_all()
            return answer

    async def _open(self, http_request: Request, request: PromptRequest) -> OpenResponse:
        return await self._store.open(
            owner_of(http_request),
            self._ids.new("resp"),
            previous_response_id=request.previous_response_id,
            conversation_id=request.conversation_id,
        )

    async def _answer(self, opened: Opened) -> ASGIApp:
        request = opened.request
        convert = partial(self._format.to_submit, opened.turn, opened.model)
        submit = await self._submitter.run(opened.http_request, convert)
        if request.background:
            return await self._answer_in_background(opened, submit)
        inflight = await self._submitter.start(
            opened.http_request,
            [submit],
            operation=self._format.operation,
            model=opened.model,
            stream=bool(request.stream),
        )
        tell_dropped(opened.http_request, inflight.dropped_messages)
        request_id = opened.http_request.state.request_id
        header = make_header(opened.id, opened.model, inflight, request_id)
        base = self._format.begin(request, header)
        output = self._format.to_output(request, opened.model)
        if request.stream:
            writer = self._format.to_writer(base, output)

            stream = EventStream(
                inflight,
                writer,
                keep_alive_s=self._keep_alive_s,
                on_end=lambda: opened.end(writer),
            )
            return OpenStream(opened.response, stream)
        async with inflight:
            await collect(inflight, output)
        ends = [] if output.finished is None else [output.finished]
        whole = finish(base, output, ends)
        await keep(opened.response, whole)
        return json_response(whole)

    async def _answer_in_background(self, opened: Opened, submit: Submit) -> ASGIApp:
        request = opened.request
        created = int(opened.response.created_at)
        base = self._format.begin(request, ResponseHeader(opened.id, created, opened.model, ""))
        queued = msgspec.structs.replace(base, status="queued")
        await opened.response.queue(store_response(queued))
        inflight = await self._submitter.open(
            opened.http_request,
            [submit],
            operation=self._format.operation,
            model=opened.model,
            stream=bool(request.stream),
        )
        output = self._format.to_output(request, opened.model)
        run = BackgroundRun(
            opened=opened.response,
            on_end=opened.end,
            inflight=inflight,
            base=base,
            output=output,
            writer=self._format.to_writer(base, output),
            record=record_of(opened.http_request.scope),
            is_streamed=bool(request.stream),
        )
        return BackgroundAnswer(opened.http_request, run, self._runs, self._keep_alive_s)


class OpenStream:
    """An ASGI response: a stream whose response is closed in the store when it ends."""

    def __init__(self, response: OpenResponse, stream: EventStream) -> None:
        self._response = response
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._response:
            await self._stream(scope, receive, send)


async def collect(inflight: InflightRequest, output: Output) -> None:
    """Wait until the answer has ended.

    Raises:
        MlxdError: the generation failed, or the client disconnected.
    """
    gate = LogprobGate()
    async for batch in inflight.batches():
        for event in batch.events:
            for _ in output.add(gate.admit(event)):
                pass


def with_store(request: ResponseRequest, is_on: bool) -> ResponseRequest:
    """The request with its `store` set: by default it is stored where anything is.

    Raises:
        InvalidRequest: it needs a store that is off, or that it turns off itself.
    """
    if request.store and not is_on:
        message = "`store`: this server stores no responses (setting response_store)."
        raise InvalidRequest(message, param="store", code="unsupported_parameter")
    store = is_on if request.store is None else request.store
    if request.background and not store:
        message = "`background` needs a response that is stored."
        raise InvalidRequest(message, param="background", code="unsupported_parameter")
    return msgspec.structs.replace(request, store=store)


def tell_left_out(http_request: Request, request: ResponseRequest) -> None:
    """Say which tools the model is not offered, in a header and in the log."""
    if places := left_out_of(request):
        value = header_of(places)
        added_headers(http_request.scope).append((LEFT_OUT_HEADER.encode(), value.encode()))
        logger.warning("Left out tools that OpenAI hosts: %s", value)


def tell_dropped(http_request: Request, count: int) -> None:
    """Say how many of the oldest messages are not in the prompt."""
    if count:
        added_headers(http_request.scope).append((DROPPED_HEADER.encode(), str(count).encode()))
