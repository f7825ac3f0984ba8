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
from service.answers import Answer, best, collect_answers, sum_usage, usage_of
from service.bodies import JsonBodies, json_response
from service.catalog import Catalog
from service.endpoints.framing import Framer
from service.generations import Generation, Generations
from service.logprobs import LogprobGate
from service.record import record_of
from service.sampling_defaults import fill
from service.schema.parameters import GenerationRequest
from service.schema.usage import Usage
from service.sse import EventStream, frame

AskedT = TypeVar("AskedT", bound=GenerationRequest)
ChoiceT = TypeVar("ChoiceT", bound=msgspec.Struct)

ShownUsage = Usage | UnsetType | None


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer, or every event of a stream, begins with. `created` is Unix time."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class Dialect(Protocol[AskedT, ChoiceT]):
    """One endpoint's shapes: pure functions between OpenAI's structs and the worker's."""

    # The operation's name in OpenTelemetry's conventions.
    operation: str
    id_prefix: str
    request_type: type[AskedT]

    def to_submits(self, asked: AskedT, model: str) -> list[Submit]:
        """The request's sequences as the worker gets them; ids are given when they are opened."""

    def to_response(
        self, asked: AskedT, head: Head, answers: list[Answer], usage: Usage
    ) -> msgspec.Struct:
        """The whole answer."""

    def to_choice(self, asked: AskedT, index: int, event: Event) -> ChoiceT | None:
        """The event as a client of a stream sees it; None where it sees nothing."""

    def to_chunk(
        self, asked: AskedT, head: Head, choices: list[ChoiceT], usage: ShownUsage
    ) -> msgspec.Struct:
        """One event of a stream."""


class GenerationEndpoint(Generic[AskedT, ChoiceT]):
    """Reads a request, opens its generation, and answers whole or as a stream."""

    def __init__(
        self,
        dialect: Dialect[AskedT, ChoiceT],
        catalog: Catalog,
        generations: Generations,
        bodies: JsonBodies,
        *,
        keep_alive_s: float,
    ) -> None:
        self._dialect = dialect
        self._catalog = catalog
        self._generations = generations
        self._bodies = bodies
        self._keep_alive_s = keep_alive_s

    async def create(self, request: Request) -> Response | EventStream:
        """The answer to one request.

        Raises:
            MlxdError: before the answer has begun; later errors are events of the stream.
        """
        asked = await self._bodies.read(request, self._dialect.request_type)
        model = self._catalog.resolve(asked.model)
        asked = fill(asked, self._catalog.defaults(model))
        submits = self._dialect.to_submits(asked, model)
        record = record_of(request.scope)
        record.ask(self._dialect.operation, model, submits, stream=bool(asked.stream))
        generation = await self._generations.open(submits)
        generation.observe = record.note
        request.state.exchange.on_disconnect(generation.abandon)
        generation.allowance = getattr(request.state, "allowance", None)
        await generation.start()
        answer_id = f"{self._dialect.id_prefix}-{uuid.uuid4().hex}"
        head = Head(answer_id, int(time.time()), model, generation.fingerprint)
        record.answer_id = head.id
        if asked.stream:
            frames = self._frames(asked, head, generation)
            return EventStream(generation, frames, keep_alive_s=self._keep_alive_s)
        async with generation:
            answers = await collect_answers(generation, len(submits))
        usage = usage_of(answers, asked.candidates)
        shown = best(answers, asked.candidates, asked.choices)
        return json_response(self._dialect.to_response(asked, head, shown, usage))

    async def _frames(
        self, asked: AskedT, head: Head, generation: Generation
    ) -> AsyncIterator[bytes]:
        """The stream's events, those that came together in one piece; empty for a sign of life."""
        no_usage: ShownUsage = None if asked.include_usage else UNSET
        framer = Framer(
            partial(self._dialect.to_choice, asked),
            lambda choices: self._dialect.to_chunk(asked, head, choices, no_usage),
        )
        ends: list[Finished] = []
        gate = LogprobGate()
        async for batch in generation.batches():
            ends += [event for event in batch if isinstance(event, Finished)]
            events = ((generation.index(event), gate.admit(event)) for event in batch)
            data = b"".join([framer.frame(index, event) for index, event in events])
            if data or not batch:
                yield data
        if asked.include_usage:
            usage = sum_usage(ends, asked.candidates)
            yield frame(msgspec.json.encode(self._dialect.to_chunk(asked, head, [], usage)))
