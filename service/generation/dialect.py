"""What one API's dialect supplies: how it reads a request, and how it writes the answer.

Inside, a request is its sequences (`Submit`) and an answer their events. `GenerationEndpoint`
does everything between them. A dialect keeps its structs, its table of parameters and its rows
of the route table in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from protocol.events import Event, Finished
from protocol.messages import Submit
from service.errors import MlxdError
from service.generation.answers import Answer
from service.schema.parameters import SamplingRequest
from service.schema.usage import Usage

RequestT = TypeVar("RequestT", bound=SamplingRequest)


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """The fields that a response and every event of its stream share. `created` is Unix time.

    `request_id` is that of the response's header.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str
    request_id: str = ""


class StreamWriter(Protocol):
    """The frames of one stream. Each method returns whole frames, or no bytes."""

    def begin(self) -> bytes:
        """What precedes the first event. All sequences have started by then."""

    def encode(self, index: int, event: Event) -> bytes:
        """The frames of one event of sequence `index`."""

    def keep_alive(self) -> bytes:
        """What shows a client that its answer is still being made."""

    def finish(self, ends: Sequence[Finished]) -> bytes:
        """The last frames of a complete answer; `ends` has one item for each sequence."""

    def fail(self, error: Exception) -> bytes:
        """The last frames of an answer that `error` ended."""


class Dialect(Protocol[RequestT]):
    """One endpoint's shapes: pure functions between its structs and the worker's."""

    # The operation's name in OpenTelemetry's conventions.
    operation: str
    request_type: type[RequestT]

    def new_id(self) -> str:
        """A random public id for an answer."""

    def to_submits(self, request: RequestT, model: str) -> list[Submit]:
        """The request's sequences for the worker. The registry assigns their ids."""

    def to_response(
        self, request: RequestT, header: ResponseHeader, answers: list[Answer], usage: Usage
    ) -> msgspec.Struct:
        """The body of a response that is not streamed."""

    def to_writer(self, request: RequestT, header: ResponseHeader) -> StreamWriter:
        """The writer of a stream."""

    def explain(self, error: MlxdError) -> MlxdError:
        """The error in the words of this API: the worker names parameters of chat completions."""
