"""What every endpoint that generates text does; its dialect says in which shapes."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from protocol.messages import Event, Finished, Submit
from service.answers import Answer, collect_answers, sum_usage, usage_of
from service.bodies import JsonBodies, json_response
from service.catalog import Catalog
from service.generations import Generation, Generations
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


class Dialect(Protocol[AskedT, ChoiceT]):
    """One endpoint's shapes: pure functions between OpenAI's structs and the worker's."""

    id_prefix: str
    request_type: type[AskedT]

    def to_submits(self, asked: AskedT, model: str) -> list[Submit]:
        """The request's sequences as the worker gets them; ids are given when they are opened."""

    def to_response(self, head: Head, answers: list[Answer], usage: Usage) -> msgspec.Struct:
        """The whole answer."""

    def to_choice(self, index: int, event: Event) -> ChoiceT | None:
        """The event as a client of a stream sees it; None where it sees nothing."""

    def to_chunk(self, head: Head, choices: list[ChoiceT], usage: ShownUsage) -> msgspec.Struct:
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
        self._encoder = msgspec.json.Encoder()

    async def create(self, request: Request) -> Response | EventStream:
        """The answer to one request.

        Raises:
            MlxdError: before the answer has begun; later errors are events of the stream.
        """
        asked = await self._bodies.read(request, self._dialect.request_type)
        model = self._catalog.resolve(asked.model)
        submits = self._dialect.to_submits(asked, model)
        generation = await self._generations.open(submits)
        request.state.exchange.on_disconnect(generation.abandon)
        await generation.start()
        head = Head(f"{self._dialect.id_prefix}-{uuid.uuid4().hex}", int(time.time()), model)
        if asked.stream:
            frames = self._frames(head, generation, asked.include_usage)
            return EventStream(generation, frames, keep_alive_s=self._keep_alive_s)
        async with generation:
            answers = await collect_answers(generation, len(submits))
        return json_response(self._dialect.to_response(head, answers, usage_of(answers)))

    async def _frames(
        self, head: Head, generation: Generation, include_usage: bool
    ) -> AsyncIterator[bytes]:
        """The stream's events, those that came together in one piece; empty for a sign of life."""
        no_usage: ShownUsage = None if include_usage else UNSET
        ends: list[Finished] = []
        async for batch in generation.batches():
            ends += [event for event in batch if isinstance(event, Finished)]
            choices = (self._dialect.to_choice(generation.index(e), e) for e in batch)
            data = b"".join(self._frame(head, [c], no_usage) for c in choices if c is not None)
            if data or not batch:
                yield data
        if include_usage:
            yield self._frame(head, [], sum_usage(ends))

    def _frame(self, head: Head, choices: list[ChoiceT], usage: ShownUsage) -> bytes:
        return frame(self._encoder.encode(self._dialect.to_chunk(head, choices, usage)))
