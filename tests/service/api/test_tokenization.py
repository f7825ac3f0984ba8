"""The endpoints of the tokenizer: results are copied, counted in memory, and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from protocol.events import Tokenized
from protocol.messages import Cancel
from protocol.tokenization import Tokenize
from service.api.chat.format import ChatFormat
from service.api.tokenization.endpoints import TokenizationEndpoints
from service.config.model_names import ModelNames
from service.config.settings import Settings
from service.errors import BodyMemoryFull, ClientDisconnected
from service.generation.submitter import COPIES, Submitter
from service.http.body_budget import SMALL_BODY_BYTES
from service.http.decoding import DecodingRules
from service.http.json_io import JsonBodies
from service.http.unknown_fields import ignored_of
from service.inflight.registry import RequestRegistry
from service.security.clients import ClientNames, PeerNames
from service.security.peer_processes import PeerProcesses
from tests.service.api.body_reader import BodyReader
from tests.service.inflight.recording_worker import RecordingWorker

pytestmark = pytest.mark.anyio


class Service:
    """The endpoints, and the worker that they send to."""

    def __init__(self) -> None:
        self.worker = RecordingWorker()
        self.registry = RequestRegistry(
            self.worker, max_in_flight=4, load_wait_s=0, queue_timeout_s=60
        )
        self.registry.worker_ready()
        self.api = TokenizationEndpoints(
            ChatFormat(),
            Submitter(
                model_names=ModelNames(Settings().models),
                registry=self.registry,
                bodies=JsonBodies(DecodingRules()),
                clients=ClientNames(PeerNames(PeerProcesses())),
            ),
        )

    async def sent(self) -> Tokenize:
        """The request that the worker gets next."""
        await self.registry.wait_busy()
        message = self.worker.sent.pop(0)
        assert isinstance(message, Tokenize)
        return message


@pytest.fixture
def service() -> Service:
    return Service()


def request_of(reader: BodyReader) -> Request:
    return Request({"type": "http", "headers": [], "state": {"request_reader": reader}})


async def answer(
    service: Service,
    endpoint: Callable[[Request], Awaitable[Response]],
    reader: BodyReader,
    **result: Any,
) -> Any:
    """The decoded body of the answer to one request, whose result is this."""
    handler = asyncio.ensure_future(endpoint(request_of(reader)))
    message = await service.sent()
    service.registry.worker_tokenized(Tokenized(id=message.id, context_length=9, **result))
    return msgspec.json.decode((await handler).body)


async def test_a_result_is_in_the_shape_of_its_request(service: Service) -> None:
    endpoints = service.api
    tokens = {"value": b"[1,2]", "count": 2}
    body = await answer(service, endpoints.tokenize, BodyReader({"prompt": "x"}), **tokens)
    assert body == {"count": 2, "max_model_len": 9, "tokens": [1, 2], "token_strs": None}
    reader = BodyReader({"prompt": "x", "return_token_strs": True})
    body = await answer(service, endpoints.tokenize, reader, **tokens, strings=b'["a","b"]')
    assert body["token_strs"] == ["a", "b"]
    reader = BodyReader({"content": "x"})
    assert await answer(service, endpoints.tokenize, reader, **tokens) == {"tokens": [1, 2]}
    body = await answer(service, endpoints.detokenize, BodyReader({"tokens": [1]}), value=b'"t"')
    assert body == {"prompt": "t", "content": "t"}


async def test_a_large_result_counts_in_the_memory_of_its_request(service: Service) -> None:
    for nbytes in (10, SMALL_BODY_BYTES, SMALL_BODY_BYTES + 1):
        reader = BodyReader({"tokens": [1]})
        value = b'"' + b"x" * (nbytes - 2) + b'"'
        await answer(service, service.api.detokenize, reader, value=value)
        is_large = nbytes > SMALL_BODY_BYTES
        assert bool(reader.reserved) == is_large
        assert all(reserved > COPIES * nbytes for reserved in reader.reserved)
    reader.is_full = True
    with pytest.raises(BodyMemoryFull):
        await answer(service, service.api.detokenize, reader, value=value)


async def test_a_client_that_leaves_cancels_its_request(service: Service) -> None:
    reader = BodyReader({"prompt": "x"})
    handler = asyncio.ensure_future(service.api.tokenize(request_of(reader)))
    message = await service.sent()
    reader.leave()
    with pytest.raises(ClientDisconnected):
        await handler
    assert service.worker.sent == [Cancel([message.id])]


async def test_what_the_model_ignores_is_named(service: Service) -> None:
    request = request_of(BodyReader({"messages": [{"role": "user", "content": "x"}]}))
    handler = asyncio.ensure_future(service.api.tokenize(request))
    message = await service.sent()
    result = Tokenized(message.id, context_length=9, value=b"[]", ignored=["reasoning_effort"])
    service.registry.worker_tokenized(result)
    await handler
    assert ignored_of(request.scope) == ["reasoning_effort"]
