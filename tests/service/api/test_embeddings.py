"""The endpoint of embeddings: vectors in any order, of any size, twice after a crash, or none."""

from __future__ import annotations

import asyncio
import base64
import struct
import threading
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from protocol.embedding import Embed
from protocol.events import Embedded, Event, Failed, Finished, Started
from protocol.messages import Cancel, Step
from protocol.stats import Memory, Stats
from service.api.embeddings import endpoint
from service.api.embeddings.endpoint import EmbeddingsEndpoint
from service.config.model_names import ModelNames
from service.config.model_settings import ModelSettings
from service.errors import BodyMemoryFull, ClientDisconnected, GenerationFailed
from service.generation.submitter import Submitter
from service.http.decoding import DecodingRules
from service.http.json_io import JsonBodies
from service.inflight.registry import RequestRegistry
from service.requestlog.record import RequestRecord
from service.schema.usage import TextsUsage
from service.security.clients import ClientNames, PeerNames
from service.security.peer_processes import PeerProcesses
from tests.service.api.body_reader import BodyReader
from tests.service.inflight.recording_worker import RecordingWorker

pytestmark = pytest.mark.anyio

STATS = Stats(running=0, waiting=0, memory=Memory(), device_ms=0.0, host_ms=0.0)
LARGE = 4096


class Service:
    """The endpoint, and the worker that it sends to."""

    def __init__(self, *, accepts_tokens: bool = False) -> None:
        self.worker = RecordingWorker()
        self.logged = RequestRecord()
        self.registry = RequestRegistry(
            self.worker, max_in_flight=4, load_wait_s=0, queue_timeout_s=60
        )
        self.registry.worker_ready()
        submitter = Submitter(
            model_names=ModelNames([ModelSettings("/m", "m", kind="embedding")]),
            registry=self.registry,
            bodies=JsonBodies(DecodingRules()),
            clients=ClientNames(PeerNames(PeerProcesses())),
        )
        self.api = EmbeddingsEndpoint(submitter, accepts_tokens=accepts_tokens)

    def begin(self, reader: BodyReader) -> asyncio.Future[Response]:
        state = {"request_reader": reader, "record": self.logged}
        request = Request({"type": "http", "headers": [], "state": state})
        return asyncio.ensure_future(self.api.create(request))

    async def sent(self) -> Embed:
        """The request that the worker gets next."""
        await self.registry.wait_busy()
        message = self.worker.sent.pop(0)
        assert isinstance(message, Embed)
        return message

    def step(self, *events: Event) -> None:
        self.registry.worker_stepped(Step(list(events), STATS))


NO_TIME = dict.fromkeys(TextsUsage.__struct_fields__, 0.0)


def pack(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def end_of(id: int) -> Finished:
    return Finished(
        id=id,
        reason="stop",
        prompt_tokens=7,
        completion_tokens=0,
        queue_ms=0.0,
        prefill_ms=5.0,
        decode_ms=0.0,
        preparation_ms=2.0,
    )


async def test_vectors_come_in_any_order_and_their_texts_in_theirs() -> None:
    service = Service()
    handler = service.begin(BodyReader({"input": ["a", "b", "c"]}))
    id = (await service.sent()).id
    service.step(Started(id, 7), Embedded(id, [2, 0], pack(5, 6, 1, 2)))
    service.step(Embedded(id, [1], pack(3, 4)), end_of(id))
    body = msgspec.json.decode((await handler).body)
    assert [each["embedding"] for each in body["data"]] == [[1, 2], [3, 4], [5, 6]]
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["total_tokens"]) == (7, 7)
    assert usage["mlxd"] == {**NO_TIME, "preparation_ms": 2.0, "prefill_ms": 5.0}
    assert (service.logged.prompt_tokens, service.logged.completion_tokens) == (7, 0)
    assert (service.logged.operation, service.logged.finish) == ("embeddings", "stop")


async def test_a_text_that_a_new_worker_computes_again_is_one_text() -> None:
    service = Service()
    handler = service.begin(BodyReader({"input": ["a", "b"]}))
    id = (await service.sent()).id
    service.step(Started(id, 7), Embedded(id, [0], pack(1)))
    service.registry.worker_lost()
    service.registry.worker_ready()
    again = await service.sent()
    service.step(Started(again.id, 7), Embedded(again.id, [0, 1], pack(1, 2)), end_of(again.id))
    body = msgspec.json.decode((await handler).body)
    assert [each["embedding"] for each in body["data"]] == [[1], [2]]
    assert service.logged.prompt_tokens == 7


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_a_large_answer_counts_in_memory_and_is_encoded_in_a_thread(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def encode(*arguments: Any, **options: Any) -> bytes:
        threads.append(threading.current_thread())
        return encode_answer(*arguments, **options)

    encode_answer = endpoint.encode_answer
    monkeypatch.setattr(endpoint, "encode_answer", encode)
    values = [index / 7 for index in range(LARGE)]
    for count in (4, LARGE):
        service, reader = Service(), BodyReader({"input": ["a"] * 8, "encoding_format": form})
        handler = service.begin(reader)
        id = (await service.sent()).id
        row = pack(*values[:count])
        service.step(Started(id, 7), Embedded(id, list(range(8)), row * 8), end_of(id))
        body = msgspec.json.decode((await handler).body)
        found = body["data"][7]["embedding"]
        packed = base64.b64decode(found) if form == "base64" else pack(*found)
        assert packed == row
        assert bool(reader.reserved) == (count == LARGE)
        assert all(reserved > len(body["data"]) * len(row) for reserved in reader.reserved)
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


async def test_an_answer_for_which_there_is_no_memory_is_refused() -> None:
    service, reader = Service(), BodyReader({"input": ["a"] * 8})
    reader.is_full = True
    handler = service.begin(reader)
    id = (await service.sent()).id
    row = pack(*range(LARGE))
    service.step(Started(id, 7), Embedded(id, list(range(8)), row * 8), end_of(id))
    with pytest.raises(BodyMemoryFull):
        await handler


async def test_a_client_that_leaves_cancels_its_request() -> None:
    service, reader = Service(), BodyReader({"input": "a"})
    handler = service.begin(reader)
    id = (await service.sent()).id
    service.step(Started(id, 7))
    reader.leave()
    with pytest.raises(ClientDisconnected):
        await handler
    assert service.worker.sent == [Cancel([id])]


async def test_values_that_are_no_numbers_are_an_error_that_a_client_does_not_try_again() -> None:
    service = Service()
    handler = service.begin(BodyReader({"input": "a"}))
    id = (await service.sent()).id
    service.step(Started(id, 7), Failed(id, "NaN"))
    with pytest.raises(GenerationFailed, match="NaN"):
        await handler


@pytest.mark.parametrize(("given", "texts"), [([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])])
async def test_token_ids_are_sent_where_the_setting_accepts_them(given: Any, texts: Any) -> None:
    service = Service(accepts_tokens=True)
    handler = service.begin(BodyReader({"input": given}))
    message = await service.sent()
    assert msgspec.msgpack.decode(message.prompt) == texts
    service.step(Started(message.id, 2), Failed(message.id, "x"))
    with pytest.raises(GenerationFailed):
        await handler
