"""What every endpoint that generates text does; its dialect says in which shapes."""

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

from protocol.messages import Event, Finished, Submit
from service.api.answers import Answer, best, collect_answers, sum_usage, usage_of
from service.api.event_stream import EventStream, frame
from service.api.logprob_encoder import LogprobGate
from service.api.stream_encoder import StreamEncoder
from service.config.model_names import ModelNames
from service.config.sampling_defaults import fill
from service.http.json_io import JsonBodies, json_response
from service.inflight.registry import RequestRegistry
from service.inflight.request import InflightRequest
from service.requestlog.event_batch import EventBatch
from service.requestlog.record import record_of
from service.schema.parameters import GenerationRequest
from service.schema.usage import Usage
from service.security.rate_limits import TokenBucket

AskedT = TypeVar("AskedT", bound=GenerationRequest)
ChoiceT = TypeVar("ChoiceT", bound=msgspec.Struct)

ShownUsage = Usage | UnsetType | None


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """What an answer, or every event of a stream, begins with. `created` is Unix time."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ApiFormat(Protocol[AskedT, ChoiceT]):
    """One endpoint's shapes: pure functions between OpenAI's structs and the worker's."""

    # The operation's name in OpenTelemetry's conventions.
    operation: str
    id_prefix: str
    request_type: type[AskedT]

    def to_submits(self, asked: AskedT, model: str) -> list[Submit]:
        """The request's sequences as the worker gets them; ids are given when they are opened."""

    def to_response(
        self, asked: AskedT, head: ResponseHeader, answers: list[Answer], usage: Usage
    ) -> msgspec.Struct:
        """The whole answer."""

    def to_choice(self, asked: AskedT, index: int, event: Event) -> ChoiceT | None:
        """The event as a client of a stream sees it; None where it sees nothing."""

    def to_chunk(
        self, asked: AskedT, head: ResponseHeader, choices: list[ChoiceT], usage: ShownUsage
    ) -> msgspec.Struct:
        """One event of a stream."""


class GenerationEndpoint(Generic[AskedT, ChoiceT]):
    """Reads a request, opens its generation, and answers whole or as a stream."""

    def __init__(
        self,
        api_format: ApiFormat[AskedT, ChoiceT],
        model_names: ModelNames,
        registry: RequestRegistry,
        bodies: JsonBodies,
        *,
        keep_alive_s: float,
    ) -> None:
        self._format = api_format
        self._model_names = model_names
        self._registry = registry
        self._bodies = bodies
        self._keep_alive_s = keep_alive_s

    async def create(self, request: Request) -> Response | EventStream:
        """The answer to one request.

        Raises:
            MlxdError: before the answer has begun; later errors are events of the stream.
        """
        asked = await self._bodies.read(request, self._format.request_type)
        model = self._model_names.resolve(asked.model)
        asked = fill(asked, self._model_names.defaults(model))
        submits = self._format.to_submits(asked, model)
        record = record_of(request.scope)
        record.set_generation(self._format.operation, model, submits, stream=bool(asked.stream))
        inflight = await self._registry.open(submits)
        inflight.observers.append(record.add_events)
        if (token_bucket := getattr(request.state, "token_bucket", None)) is not None:
            inflight.observers.append(partial(spend, token_bucket))
        request.state.request_reader.on_disconnect(inflight.abandon)
        await inflight.start()
        answer_id = f"{self._format.id_prefix}-{uuid.uuid4().hex}"
        head = ResponseHeader(answer_id, int(time.time()), model, inflight.fingerprint)
        record.answer_id = head.id
        if asked.stream:
            frames = self._frames(asked, head, inflight)
            return EventStream(inflight, frames, keep_alive_s=self._keep_alive_s)
        async with inflight:
            answers = await collect_answers(inflight, len(submits))
        usage = usage_of(answers, asked.candidates)
        shown = best(answers, asked.candidates, asked.choices)
        return json_response(self._format.to_response(asked, head, shown, usage))

    async def _frames(
        self, asked: AskedT, head: ResponseHeader, inflight: InflightRequest
    ) -> AsyncIterator[bytes]:
        """The stream's events, those that came together in one piece; empty for a sign of life."""
        no_usage: ShownUsage = None if asked.include_usage else UNSET
        encoder = StreamEncoder(
            partial(self._format.to_choice, asked),
            lambda choices: self._format.to_chunk(asked, head, choices, no_usage),
        )
        ends: list[Finished] = []
        gate = LogprobGate()
        async for batch in inflight.batches():
            ends += batch.finished
            events = ((inflight.index(event), gate.admit(event)) for event in batch.events)
            data = b"".join([encoder.encode(index, event) for index, event in events])
            if data or not batch.events:
                yield data
        if asked.include_usage:
            usage = sum_usage(ends, asked.candidates)
            yield frame(msgspec.json.encode(self._format.to_chunk(asked, head, [], usage)))


def spend(bucket: TokenBucket, batch: EventBatch) -> None:
    """Take what was computed and generated from the key's tokens."""
    if tokens := batch.prompt_tokens + batch.completion_tokens:
        bucket.consume(tokens)
