"""The endpoint that generates text. An `ApiFormat` supplies the shapes of one API."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from protocol.events import Event, Finished
from protocol.messages import Submit
from service.api.answers import (
    Answer,
    UsageCounter,
    collect_answers,
    select_best,
    sum_usage,
    usage_of,
)
from service.api.event_stream import EventStream, frame
from service.api.logprob_encoder import LogprobGate
from service.api.stream_encoder import StreamEncoder
from service.config.model_names import ModelNames
from service.config.sampling_defaults import fill
from service.http.json_io import JsonBodies, json_response
from service.http.unknown_fields import ignored_of
from service.inflight.registry import RequestRegistry
from service.inflight.request import InflightRequest
from service.requestlog.event_batch import EventBatch
from service.requestlog.record import record_of
from service.schema.parameters import GenerationRequest
from service.schema.usage import Usage
from service.security.clients import ClientNames
from service.security.rate_limits import TokenBucket

RequestT = TypeVar("RequestT", bound=GenerationRequest)
ChoiceT = TypeVar("ChoiceT", bound=msgspec.Struct)

# The usage of a stream's event: UNSET without `include_usage`, else null until the last event;
# the usage so far with `continuous_usage_stats`.
ChunkUsage = Usage | UnsetType | None


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """The fields that a response and every event of its stream share. `created` is Unix time."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ApiFormat(Protocol[RequestT, ChoiceT]):
    """One endpoint's shapes: pure functions between OpenAI's structs and the worker's."""

    # The operation's name in OpenTelemetry's conventions.
    operation: str
    id_prefix: str
    request_type: type[RequestT]

    def to_submits(self, request: RequestT, model: str) -> list[Submit]:
        """The request's sequences for the worker. The registry assigns their ids."""

    def to_response(
        self, request: RequestT, header: ResponseHeader, answers: list[Answer], usage: Usage
    ) -> msgspec.Struct:
        """The body of a response that is not streamed."""

    def to_choice(self, request: RequestT, index: int, event: Event) -> ChoiceT | None:
        """The event as a choice of a stream; None where the client gets nothing."""

    def to_chunk(
        self, request: RequestT, header: ResponseHeader, choices: list[ChoiceT], usage: ChunkUsage
    ) -> msgspec.Struct:
        """One event of a stream."""


class GenerationEndpoint(Generic[RequestT, ChoiceT]):
    """Reads a request, submits its sequences, and sends the answer at once or as a stream."""

    def __init__(
        self,
        api_format: ApiFormat[RequestT, ChoiceT],
        *,
        model_names: ModelNames,
        registry: RequestRegistry,
        bodies: JsonBodies,
        clients: ClientNames,
        keep_alive_s: float,
        strict_max_tokens: bool = False,
    ) -> None:
        self._clients = clients
        self._format = api_format
        self._model_names = model_names
        self._registry = registry
        self._bodies = bodies
        self._keep_alive_s = keep_alive_s
        self._has_ceilings = not strict_max_tokens

    async def create(self, http_request: Request) -> Response | EventStream:
        """The response to one request.

        Raises:
            MlxdError: before the response starts; later errors are events of the stream.
        """
        request = await self._bodies.read(http_request, self._format.request_type)
        model = self._model_names.resolve(request.model)
        request = fill(request, self._model_names.defaults(model))
        submits = [
            msgspec.structs.replace(submit, ceiling=self._has_ceilings)
            for submit in self._format.to_submits(request, model)
        ]
        record = record_of(http_request.scope)
        record.set_generation(self._format.operation, model, submits, stream=bool(request.stream))
        count = sum(len(submit.sequences()) for submit in submits)
        client = await name_client(http_request, self._clients, self._registry, count)
        inflight = await self._registry.open(submits, client)
        inflight.observers.append(record.add_events)
        if (token_bucket := getattr(http_request.state, "token_bucket", None)) is not None:
            inflight.observers.append(partial(spend, token_bucket))
        http_request.state.request_reader.on_disconnect(inflight.abandon)
        await inflight.start()
        ignored_of(http_request.scope).extend(inflight.ignored)
        header = ResponseHeader(
            id=f"{self._format.id_prefix}-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model,
            system_fingerprint=inflight.fingerprint,
        )
        record.answer_id = header.id
        if request.stream:
            frames = stream_frames(self._format, request, header, inflight)
            return EventStream(inflight, frames, keep_alive_s=self._keep_alive_s)
        async with inflight:
            answers = await collect_answers(inflight, len(submits))
        usage = usage_of(answers, request.candidates)
        selected = select_best(answers, request.candidates, request.choices)
        return json_response(self._format.to_response(request, header, selected, usage))


async def stream_frames(
    api_format: ApiFormat[RequestT, ChoiceT],
    request: RequestT,
    header: ResponseHeader,
    inflight: InflightRequest,
) -> AsyncIterator[bytes]:
    """The frames of the stream, joined by batch; empty bytes after a keep-alive wake-up."""
    no_usage: ChunkUsage = None if request.include_usage else UNSET
    counter = UsageCounter(request.candidates) if request.continuous_usage else None
    encoder = StreamEncoder(
        partial(api_format.to_choice, request),
        lambda choices: api_format.to_chunk(
            request, header, choices, no_usage if counter is None else counter.usage
        ),
        frames_are_alike=counter is None,
    )
    ends: list[Finished] = []
    gate = LogprobGate()

    def encode(event: Event) -> bytes:
        index = inflight.index(event)
        if counter is not None:
            counter.add(index, event)
        return encoder.encode(index, gate.admit(event))

    async for batch in inflight.batches():
        ends += batch.finished
        data = b"".join([encode(event) for event in batch.events])
        if data or not batch.events:
            yield data
    if request.include_usage:
        usage = sum_usage(ends, request.candidates)
        yield frame(msgspec.json.encode(api_format.to_chunk(request, header, [], usage)))


def spend(bucket: TokenBucket, batch: EventBatch) -> None:
    """Take the batch's prompt and completion tokens from the API key's token bucket."""
    if tokens := batch.prompt_tokens + batch.completion_tokens:
        bucket.consume(tokens)


async def name_client(
    http_request: Request, clients: ClientNames, registry: RequestRegistry, count: int
) -> str:
    """The client of a request of `count` sequences.

    A process is looked up only for several of them, or if other requests are in flight.
    """
    if count > 1 or len(registry):
        return await clients.find_name(http_request.scope)
    return clients.name_now(http_request.scope)
