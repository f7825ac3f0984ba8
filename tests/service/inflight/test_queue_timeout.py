"""The queue timeout ends requests that wait, and none that the device has."""

from __future__ import annotations

import pytest

from protocol.events import Event, Progress, Started, TextDelta
from protocol.messages import Cancel, Step, Submit
from service.errors import WorkerUnavailable
from service.inflight.registry import RequestRegistry
from service.inflight.request import InflightRequest
from tests.service.inflight.recording_worker import RecordingWorker
from tests.service.records import IDLE, make_finished, make_submit

pytestmark = pytest.mark.anyio


@pytest.fixture
def worker() -> RecordingWorker:
    return RecordingWorker()


def ready(worker: RecordingWorker) -> RequestRegistry:
    """A registry whose worker has loaded, with a very short queue timeout."""
    registry = RequestRegistry(
        worker, max_in_flight=3, load_wait_s=0, queue_timeout_s=0.01, clock=lambda: 0.0
    )
    registry.worker_ready()
    return registry


def submits() -> list[Submit]:
    return [make_submit(0)]


def step(*events: Event) -> Step:
    return Step(list(events), IDLE)


async def collect(request: InflightRequest) -> list[Event]:
    return [event async for batch in request.batches() for event in batch.events]


async def test_a_request_that_does_not_start_in_time_fails(
    worker: RecordingWorker,
) -> None:
    registry = ready(worker)
    started, waiting = await registry.open(submits()), await registry.open(submits())
    registry.worker_stepped(step(Started(1, 1)))
    with pytest.raises(WorkerUnavailable) as caught:
        await waiting.start()
    assert caught.value.code == "queue_timeout"
    assert worker.sent[-1] == Cancel([2])
    await started.start()
    assert len(registry) == 1


async def test_a_request_that_had_not_started_at_a_crash_keeps_its_queue_timeout(
    worker: RecordingWorker,
) -> None:
    registry = ready(worker)
    request = await registry.open(submits())
    registry.worker_lost()
    with pytest.raises(WorkerUnavailable) as caught:
        await request.start()
    assert caught.value.code == "queue_timeout"
    assert len(registry) == 0


async def test_a_started_answer_waits_for_the_next_worker_without_a_timeout(
    worker: RecordingWorker,
) -> None:
    registry = ready(worker)
    started, waiting = await registry.open(submits()), await registry.open(submits())
    registry.worker_stepped(step(Started(1, 1), TextDelta(1, "a", [7])))
    registry.worker_lost()
    with pytest.raises(WorkerUnavailable):
        await waiting.start()
    registry.worker_ready()
    registry.worker_stepped(step(Started(1, 1), TextDelta(1, "b", [8]), make_finished(1)))
    events = [Started(1, 1), TextDelta(1, "a", [7]), TextDelta(1, "b", [8]), make_finished(1)]
    assert await collect(started) == events


async def test_a_long_prefill_meets_no_queue_timeout_and_its_progress_is_no_event_of_the_answer(
    worker: RecordingWorker,
) -> None:
    registry = ready(worker)
    prefilling, waiting = await registry.open(submits()), await registry.open(submits())
    registry.worker_stepped(step(Started(1, 900)))
    registry.worker_stepped(step(Progress(1, 512, 900)))
    with pytest.raises(WorkerUnavailable) as caught:
        await waiting.start()
    assert caught.value.code == "queue_timeout"
    registry.worker_stepped(step(TextDelta(1, "a", [7]), make_finished(1)))
    assert await collect(prefilling) == [
        Started(1, 900),
        TextDelta(1, "a", [7]),
        make_finished(1),
    ]
