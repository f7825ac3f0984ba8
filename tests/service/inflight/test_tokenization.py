"""Requests for the tokenizer in flight: one result each, also after a crash of the worker."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from protocol.events import Rejected, Tokenized
from protocol.messages import Cancel
from protocol.tokenization import Tokenize
from service.errors import ClientDisconnected, InvalidRequest, Overloaded, WorkerUnavailable
from service.inflight.registry import RequestRegistry
from tests.service.inflight.recording_worker import RecordingWorker
from tests.service.records import make_submit
from tests.waiting import HANG_S

pytestmark = pytest.mark.anyio

MAX_IN_FLIGHT = 2
TOKENIZE = Tokenize(id=0, model="m", prompt=msgspec.Raw(b"\xc0"), param="content")


@pytest.fixture
def worker() -> RecordingWorker:
    return RecordingWorker()


def make_registry(worker: RecordingWorker, queue_timeout_s: float = HANG_S) -> RequestRegistry:
    registry = RequestRegistry(
        worker, max_in_flight=MAX_IN_FLIGHT, load_wait_s=0, queue_timeout_s=queue_timeout_s
    )
    registry.worker_ready()
    return registry


@pytest.fixture
def registry(worker: RecordingWorker) -> RequestRegistry:
    return make_registry(worker)


def result_of(id: int) -> Tokenized:
    return Tokenized(id=id, context_length=9, value=b"[1]", count=1)


def with_id(id: int, client: str = "") -> Tokenize:
    return msgspec.structs.replace(TOKENIZE, id=id, client=client)


async def test_a_request_gets_its_result_and_ends(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    request = await registry.open([TOKENIZE], "someone")
    assert worker.sent == [with_id(1, "someone")]
    registry.worker_tokenized(result_of(1))
    assert await request.tokenized() == result_of(1)
    assert len(registry) == 0
    assert worker.sent == [with_id(1, "someone")]


async def test_a_rejection_is_raised(registry: RequestRegistry) -> None:
    request = await registry.open([TOKENIZE])
    registry.worker_tokenized(Rejected(1, "invalid_value", "no", "content"))
    with pytest.raises(InvalidRequest, match="no") as caught:
        await request.tokenized()
    assert caught.value.param == "content"


async def test_a_new_worker_gets_the_request_again(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    request = await registry.open([TOKENIZE])
    registry.worker_lost()
    registry.worker_ready()
    assert worker.sent == [with_id(1), with_id(1)]
    registry.worker_tokenized(result_of(1))
    registry.worker_tokenized(result_of(1))
    assert await request.tokenized() == result_of(1)


async def test_a_request_that_is_isolated_gets_the_result_of_its_new_attempt(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    submitted = await registry.open([make_submit(0)])
    request = await registry.open([TOKENIZE])
    for _ in range(2):
        registry.worker_lost()
        registry.worker_ready()
    # The newest suspect runs alone, and then the other.
    assert worker.sent[-1:] == [with_id(2)]
    registry.worker_tokenized(result_of(2))
    assert await request.tokenized() == result_of(2)
    assert worker.sent[-1:] == [make_submit(1)]
    submitted.close()


async def test_a_client_that_leaves_cancels_the_request(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    request = await registry.open([TOKENIZE])
    request.abandon()
    assert worker.sent[-1] == Cancel([1])
    with pytest.raises(ClientDisconnected):
        await request.tokenized()
    registry.worker_tokenized(result_of(1))
    assert len(registry) == 0


async def test_a_handler_that_ends_cancels_the_request(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    request = await registry.open([TOKENIZE])
    handler = asyncio.create_task(request.tokenized())
    await asyncio.sleep(0)
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    assert worker.sent[-1] == Cancel([1])


async def test_a_request_that_waits_too_long_ends(worker: RecordingWorker) -> None:
    registry = make_registry(worker, queue_timeout_s=0.05)
    request = await registry.open([TOKENIZE])
    with pytest.raises(WorkerUnavailable, match="for the tokenizer") as caught:
        await request.tokenized()
    assert caught.value.code == "queue_timeout"
    assert len(registry) == 0


async def test_tokenizations_count_as_requests_in_flight(registry: RequestRegistry) -> None:
    for _ in range(MAX_IN_FLIGHT):
        await registry.open([TOKENIZE])
    with pytest.raises(Overloaded):
        await registry.open([TOKENIZE])
