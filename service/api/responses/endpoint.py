"""POST /v1/responses."""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response as HttpResponse

from service.api.responses.format import ResponseFormat, Turn, finish, left_out_of
from service.api.responses.output.items import Output, new_id
from service.api.responses.shapes.request import ResponseRequest
from service.errors import MlxdError
from service.generation.endpoint import make_header
from service.generation.event_stream import EventStream
from service.generation.logprob_encoder import LogprobGate
from service.generation.submitter import Submitter
from service.http.error_middleware import added_headers
from service.http.json_io import json_response
from service.http.unknown_fields import header_of
from service.inflight.request import InflightRequest
from service.requestlog.record import record_of

logger = logging.getLogger(__name__)

LEFT_OUT_HEADER = b"x-mlxd-left-out"


class ResponsesEndpoint:
    """Creates responses, at once or as a stream."""

    def __init__(
        self, response_format: ResponseFormat, submitter: Submitter, *, keep_alive_s: float
    ) -> None:
        self._format = response_format
        self._submitter = submitter
        self._keep_alive_s = keep_alive_s

    async def create(self, http_request: Request) -> HttpResponse | EventStream:
        """The response to one request.

        Raises:
            MlxdError: before the response starts; later errors are events of the stream.
        """
        try:
            return await self._create(http_request)
        except MlxdError as error:
            raise self._format.explain(error) from error

    async def _create(self, http_request: Request) -> HttpResponse | EventStream:
        request = await self._submitter.read(http_request, ResponseRequest)
        tell_left_out(http_request, request)
        model = self._submitter.resolve(request.model)
        request = self._submitter.fill(request, model)
        turn = Turn(request)
        inflight = await self._submitter.start(
            http_request,
            [self._format.to_submit(turn, model)],
            operation=self._format.operation,
            model=model,
            stream=bool(request.stream),
        )
        header = make_header(new_id("resp"), model, inflight, http_request.state.request_id)
        record_of(http_request.scope).answer_id = header.id
        base = self._format.begin(request, header)
        output = self._format.to_output(request)
        if request.stream:
            writer = self._format.to_writer(base, output)
            return EventStream(inflight, writer, keep_alive_s=self._keep_alive_s)
        async with inflight:
            await collect(inflight, output)
        ends = [] if output.finished is None else [output.finished]
        return json_response(finish(base, output, ends))


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


def tell_left_out(http_request: Request, request: ResponseRequest) -> None:
    """Say which tools the model is not offered, in a header and in the log."""
    if places := left_out_of(request):
        value = header_of(places)
        added_headers(http_request.scope).append((LEFT_OUT_HEADER, value.encode()))
        logger.warning("Left out tools that OpenAI hosts: %s", value)
