"""Submits what a request asks of the worker, with the limits, the log and the client it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request

from protocol.embedding import Embed
from protocol.events import Tokenized
from protocol.messages import Submit
from protocol.tokenization import Tokenize
from service.config.model_names import ModelNames
from service.config.model_settings import ModelKind
from service.config.sampling_defaults import fill
from service.http.body_budget import SMALL_BODY_BYTES
from service.http.decoding import RequestBody
from service.http.json_io import JsonBodies
from service.http.unknown_fields import ignored_of
from service.inflight.registry import RequestRegistry
from service.inflight.request import InflightRequest
from service.requestlog.event_batch import EventBatch
from service.requestlog.record import record_of
from service.schema.parameters import SamplingRequest
from service.security.clients import ClientNames, key_client
from service.security.priorities import DEFAULT_PRIORITY, bound_priority
from service.security.rate_limits import TokenBucket

BodyT = TypeVar("BodyT", bound=RequestBody)
ResultT = TypeVar("ResultT")
RequestT = TypeVar("RequestT", bound=SamplingRequest)

# The result is in memory twice: as it arrives, and in the response.
COPIES = 2


class Submitter:
    """Reads requests and passes them to the worker, for every dialect.

    No request has a priority below its key's, or `key_priority`. With `has_ceilings` an answer's
    limit of tokens is cut to what the context and the memory hold.
    """

    def __init__(
        self,
        *,
        model_names: ModelNames,
        registry: RequestRegistry,
        bodies: JsonBodies,
        clients: ClientNames,
        has_ceilings: bool = True,
        key_priority: int = DEFAULT_PRIORITY,
    ) -> None:
        self._model_names = model_names
        self._registry = registry
        self._bodies = bodies
        self._clients = clients
        self._key_priority = key_priority
        self.has_ceilings = has_ceilings

    async def read(self, http_request: Request, kind: type[BodyT]) -> BodyT:
        """The body as a valid `kind`.

        Raises:
            MlxdError: the size or the content of the body is invalid.
        """
        return await self._bodies.read(http_request, kind)

    async def run(self, http_request: Request, work: Callable[[], ResultT]) -> ResultT:
        """The result of `work` on the request; beside other requests if its body is large.

        Raises:
            MlxdError: the work raises it, or the client has left.
        """
        return await self._bodies.run(http_request, work)

    def resolve(self, name: str | None, kind: ModelKind | None = "generation") -> str:
        """The id of the model with this id or alias; without a name the first of this kind.

        Raises:
            ModelNotFound: no configured model has this name.
            InvalidRequest: the model is of another kind than `kind`.
        """
        return self._model_names.resolve(name, kind)

    def fill(self, request: RequestT, model: str) -> RequestT:
        """The request with the configured defaults of `model` for parameters that it leaves out."""
        return fill(request, self._model_names.defaults(model))

    async def start(
        self,
        http_request: Request,
        submits: Sequence[Submit],
        *,
        operation: str,
        model: str,
        stream: bool,
    ) -> InflightRequest:
        """Submit the sequences and wait until all have started. A client that leaves cancels them.

        Raises:
            MlxdError: the request cannot be served.
        """
        http_request.state.request_reader.check_connected()
        inflight = await self.open(
            http_request, submits, operation=operation, model=model, stream=stream
        )
        http_request.state.request_reader.on_disconnect(inflight.abandon)
        await inflight.start()
        ignored_of(http_request.scope).extend(inflight.ignored)
        return inflight

    async def open(
        self,
        http_request: Request,
        submits: Sequence[Submit],
        *,
        operation: str,
        model: str,
        stream: bool,
    ) -> InflightRequest:
        """Submit the sequences: they go on whether the client stays or leaves.

        Raises:
            MlxdError: the request cannot be served.
        """
        least = getattr(http_request.state, "key_priority", self._key_priority)
        submits = [self._with_limits(submit, least) for submit in submits]
        record_of(http_request.scope).set_generation(operation, model, submits, stream=stream)
        count = sum(len(submit.sequences()) for submit in submits)
        client = await self._name_client(http_request, count)
        owner = owner_of(http_request)
        return observed(http_request, await self._registry.open(submits, client, owner))

    async def embed(
        self, http_request: Request, embed: Embed, *, operation: str
    ) -> InflightRequest:
        """Submit texts for vectors or scores and wait until their computation has started.

        Raises:
            MlxdError: the request cannot be served.
        """
        http_request.state.request_reader.check_connected()
        least = getattr(http_request.state, "key_priority", self._key_priority)
        priority = bound_priority(embed.priority, least)
        embed = msgspec.structs.replace(embed, priority=priority)
        record_of(http_request.scope).set_generation(operation, embed.model, (), stream=False)
        client = await self._name_client(http_request, 1)
        opened = await self._registry.open([embed], client, owner_of(http_request))
        inflight = observed(http_request, opened)
        http_request.state.request_reader.on_disconnect(inflight.abandon)
        await inflight.start()
        return inflight

    async def tokenize(self, http_request: Request, tokenize: Tokenize) -> Tokenized:
        """The tokenizer's result; its memory counts with that of the request's body.

        Raises:
            MlxdError: the request cannot be served.
        """
        http_request.state.request_reader.check_connected()
        client = await self._name_client(http_request, 1)
        inflight = await self._registry.open([tokenize], client, owner_of(http_request))
        reader = http_request.state.request_reader
        reader.on_disconnect(inflight.abandon)
        result = await inflight.tokenized()
        nbytes = len(result.value) + len(result.strings)
        if nbytes > SMALL_BODY_BYTES:
            await reader.reserve(COPIES * (tokenize.nbytes + nbytes))
        ignored_of(http_request.scope).extend(result.ignored)
        return result

    def _with_limits(self, submit: Submit, least_priority: int) -> Submit:
        """The same sequence, with what is the service's to say of its limit and its priority."""
        return msgspec.structs.replace(
            submit,
            ceiling=self.has_ceilings,
            priority=bound_priority(submit.priority, least_priority),
        )

    async def _name_client(self, http_request: Request, count: int) -> str:
        """The client of a request of `count` sequences.

        A process is looked up only for several of them, or if other requests are in flight: while
        the first worker loads none is, and those that wait for it are named behind that.
        """
        await self._registry.wait_loaded()
        if count > 1 or len(self._registry):
            return await self._clients.find_name(http_request.scope)
        return self._clients.name_now(http_request.scope)


def owner_of(http_request: Request) -> str:
    """The API key of a request; without keys all requests are one owner's."""
    return key_client(http_request.scope) or ""


def observed(http_request: Request, inflight: InflightRequest) -> InflightRequest:
    """The request in flight; its events are recorded, and its tokens are the API key's."""
    inflight.observers.append(record_of(http_request.scope).add_events)
    if (token_bucket := getattr(http_request.state, "token_bucket", None)) is not None:
        inflight.observers.append(partial(spend, token_bucket))
    return inflight


def spend(bucket: TokenBucket, batch: EventBatch) -> None:
    """Take the batch's prompt and completion tokens from the API key's token bucket."""
    if tokens := batch.prompt_tokens + batch.completion_tokens:
        bucket.consume(tokens)
