"""The endpoint that generates text. A `Dialect` supplies the shapes of one API."""

from __future__ import annotations

import time
from functools import partial
from typing import Generic

from starlette.requests import Request
from starlette.responses import Response

from service.errors import explained
from service.generation.answers import collect_answers, select_best, usage_of
from service.generation.dialect import Dialect, RequestT, ResponseHeader
from service.generation.event_stream import EventStream
from service.generation.submitter import Submitter
from service.http.json_io import json_response
from service.inflight.request import InflightRequest
from service.requestlog.record import record_of


class GenerationEndpoint(Generic[RequestT]):
    """Reads a request, submits its sequences, and sends the answer at once or as a stream."""

    def __init__(
        self, dialect: Dialect[RequestT], submitter: Submitter, *, keep_alive_s: float
    ) -> None:
        self._dialect = dialect
        self._submitter = submitter
        self._keep_alive_s = keep_alive_s

    async def create(self, http_request: Request) -> Response | EventStream:
        """The response to one request.

        Raises:
            MlxdError: before the response starts; later errors are events of the stream.
        """
        with explained(self._dialect.explain):
            return await self._create(http_request)

    async def _create(self, http_request: Request) -> Response | EventStream:
        dialect = self._dialect
        request = await self._submitter.read(http_request, dialect.request_type)
        model = self._submitter.resolve(request.model)
        request = self._submitter.fill(request, model)
        convert = partial(dialect.to_submits, request, model)
        submits = await self._submitter.run(http_request, convert)
        inflight = await self._submitter.start(
            http_request,
            submits,
            operation=dialect.operation,
            model=model,
            stream=bool(request.stream),
        )
        header = make_header(dialect.new_id(), model, inflight, http_request.state.request_id)
        record_of(http_request.scope).answer_id = header.id
        if request.stream:
            writer = dialect.to_writer(request, header)
            return EventStream(inflight, writer, keep_alive_s=self._keep_alive_s)
        async with inflight:
            answers = await collect_answers(inflight, len(submits))
        usage = usage_of(answers, request.candidates)
        selected = select_best(answers, request.candidates, request.choices)
        return json_response(dialect.to_response(request, header, selected, usage))


def make_header(
    id: str, model: str, inflight: InflightRequest, request_id: str = ""
) -> ResponseHeader:
    """The header of an answer that begins now."""
    return ResponseHeader(
        id=id,
        created=int(time.time()),
        model=model,
        system_fingerprint=inflight.fingerprint,
        request_id=request_id,
    )
