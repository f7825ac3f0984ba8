"""Requests in flight: each event reaches its request, and a worker's death loses none."""

from __future__ import annotations

import asyncio

import pytest

from protocol.messages import (
    Cancel,
    Event,
    Failed,
    Finished,
    Memory,
    Rejected,
    Sampling,
    Started,
    Stats,
    Step,
    Submit,
    TextDelta,
    TextPrompt,
    ToWorker,
)
from service.errors import (
    ClientDisconnected,
    GenerationFailed,
    InternalError,
    InvalidRequest,
    MlxdError,
    Overloaded,
    WorkerCrashed,
    WorkerUnavailable,
)
from service.inflight.crash_policy import MARGIN_TOKENS
from service.inflight.registry import RequestRegistry
from service.inflight.request import InflightRequest
from service.supervision.supervisor import Status

pytestmark = pytest.mark.anyio


class RecordedWorker:
    """Keeps what is sent; the tests say what comes back."""

    def __init__(self) -> None:
        self.status: Status = "healthy"
        self.failure: str | None = None
        self.max_running = 8
        self.sent: list[ToWorker] = []

    def send(self, message: ToWorker) -> None:
        self.sent.append(message)

    async def wait_loaded(self, timeout_s: float) -> None:
        self.status = "healthy"


@pytest.fixture
def worker() -> RecordedWorker:
    return RecordedWorker()


@pytest.fixture
def generations(worker: RecordedWorker) -> RequestRegistry:
    return ready(worker)


def ready(
    worker: RecordedWorker, *, load_wait_s: float = 0, queue_timeout_s: float = 60
) -> RequestRegistry:
    """Generations over a worker that has loaded."""
    generations = RequestRegistry(
        worker, max_in_flight=3, load_wait_s=load_wait_s, queue_timeout_s=queue_timeout_s
    )
    generations.worker_ready()
    return generations


def asked(count: int = 1) -> list[Submit]:
    return [Submit(0, "m", TextPrompt("x"), Sampling(0)) for _ in range(count)]


def step(*events: Event) -> Step:
    return Step(list(events), Stats(0, 0, Memory(), 0.0, 0.0))


def finished(id: int) -> Finished:
    return Finished(id, "stop", 1, 1, 0.0, 0.0, 0.0)


async def collect(generation: InflightRequest) -> list[Event]:
    return [event async for batch in generation.batches() for event in batch.events]


async def test_each_request_gets_its_own_events(generations: RequestRegistry) -> None:
    first, second = await generations.open(asked()), await generations.open(asked())
    generations.worker_stepped(step(Started(1, 5), Started(2, 6)))
    generations.worker_stepped(step(TextDelta(2, "b", [2]), TextDelta(1, "a", [1])))
    generations.worker_stepped(step(finished(1), finished(2)))
    assert await collect(first) == [Started(1, 5), TextDelta(1, "a", [1]), finished(1)]
    assert await collect(second) == [Started(2, 6), TextDelta(2, "b", [2]), finished(2)]
    assert len(generations) == 0


async def test_a_request_of_several_sequences_ends_with_the_last(
    generations: RequestRegistry,
) -> None:
    generation = await generations.open(asked(2))
    generations.worker_stepped(step(Started(1, 1), Started(2, 1), finished(2)))
    generations.worker_stepped(step(finished(1)))
    await generation.start()
    events = await collect(generation)
    assert [generation.index(event) for event in events] == [0, 1, 1, 0]


async def test_a_refusal_of_any_sequence_refuses_the_request_before_it_starts(
    generations: RequestRegistry, worker: RecordedWorker
) -> None:
    generation = await generations.open(asked(2))
    generations.worker_stepped(step(Started(1, 1)))
    generations.worker_stepped(step(Rejected(2, "context_length_exceeded", "too long", "prompt")))
    with pytest.raises(InvalidRequest) as caught:
        await generation.start()
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    assert worker.sent[-1] == Cancel([1])
    assert len(generations) == 0


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (Rejected(1, "internal_error", "a fault"), InternalError),
        (Failed(1, "a fault"), GenerationFailed),
    ],
)
async def test_a_fault_of_the_worker_is_an_error_of_the_service(
    generations: RequestRegistry, event: Event, kind: type[MlxdError]
) -> None:
    generation = await generations.open(asked())
    generations.worker_stepped(step(event))
    with pytest.raises(kind):
        await generation.start()


async def test_leaving_an_unfinished_generation_cancels_it(
    generations: RequestRegistry, worker: RecordedWorker
) -> None:
    async with await generations.open(asked(2)):
        generations.worker_stepped(step(Started(1, 1), finished(1)))
    assert worker.sent[-1] == Cancel([2])
    assert len(generations) == 0


async def test_leaving_a_finished_generation_sends_nothing(
    generations: RequestRegistry, worker: RecordedWorker
) -> None:
    async with await generations.open(asked()):
        generations.worker_stepped(step(Started(1, 1), finished(1)))
    assert [type(message) for message in worker.sent] == [Submit]


async def test_a_client_that_leaves_ends_its_handlers_wait(
    generations: RequestRegistry, worker: RecordedWorker
) -> None:
    generation = await generations.open(asked())
    waiting = asyncio.create_task(generation.start())
    await asyncio.sleep(0)
    generation.abandon()
    with pytest.raises(ClientDisconnected):
        await waiting
    assert worker.sent[-1] == Cancel([1])


async def test_events_of_a_request_that_is_gone_are_dropped(generations: RequestRegistry) -> None:
    generation = await generations.open(asked())
    generation.abandon()
    generations.worker_stepped(step(Started(1, 1), TextDelta(1, "late", [1]), finished(1)))
    assert len(generations) == 0


async def test_a_new_worker_gets_each_request_back_with_the_tokens_received(
    generations: RequestRegistry, worker: RecordedWorker
) -> None:
    generation = await generations.open(asked(2))
    generations.worker_stepped(step(Started(1, 1), Started(2, 1), TextDelta(1, "a", [7])))
    generations.worker_stepped(step(TextDelta(1, "", [8]), finished(2)))
    generations.worker_lost()
    generations.worker_ready()
    [resumed] = [m for m in worker.sent[2:] if isinstance(m, Submit)]
    assert (resumed.id, resumed.resume) == (1, [7, 8])
    generations.worker_stepped(step(Started(1, 1), TextDelta(1, "b", [9]), finished(1)))
    events = await collect(generation)
    assert [type(event) for event in events].count(Started) == 2
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "ab"


def die(generations: RequestRegistry) -> bool:
    explained = generations.worker_lost()
    generations.worker_ready()
    return explained


async def test_a_request_that_ends_the_worker_again_fails_and_tells_why(
    generations: RequestRegistry,
) -> None:
    generation = await generations.open(asked())
    assert not die(generations)
    assert die(generations)
    with pytest.raises(WorkerCrashed):
        await generation.start()
    assert len(generations) == 0


async def test_suspects_are_tried_alone_and_the_innocent_go_on_together(
    generations: RequestRegistry, worker: RecordedWorker
) -> None:
    innocent, culprit = await generations.open(asked()), await generations.open(asked())
    for _ in range(2):
        worker.sent.clear()
        assert not die(generations)
    assert [m.id for m in worker.sent if isinstance(m, Submit)] == [2]
    worker.sent.clear()
    assert die(generations)
    assert [m.id for m in worker.sent if isinstance(m, Submit)] == [1]
    with pytest.raises(WorkerCrashed):
        await culprit.start()
    generations.worker_stepped(step(Started(1, 1), finished(1)))
    assert await collect(innocent) == [Started(1, 1), finished(1)]


async def test_what_a_worker_still_says_of_a_sequence_taken_back_is_dropped(
    generations: RequestRegistry, worker: RecordedWorker
) -> None:
    older, newer = await generations.open(asked()), await generations.open(asked())
    for _ in range(2):
        die(generations)
    tokens = list(range(MARGIN_TOKENS))
    worker.sent.clear()
    generations.worker_stepped(step(Started(2, 1), TextDelta(2, "n", tokens)))
    [cancel, trial] = worker.sent
    assert (cancel, trial) == (Cancel([2]), Submit(1, "m", TextPrompt("x"), Sampling(0)))
    worker.sent.clear()
    generations.worker_stepped(step(TextDelta(2, "late", [99]), Started(1, 1), finished(1)))
    [back] = worker.sent
    assert isinstance(back, Submit)
    assert (back.id != 2, back.resume) == (True, tokens)
    generations.worker_stepped(step(TextDelta(2, "later", [99]), Started(back.id, 1)))
    generations.worker_stepped(step(TextDelta(back.id, "ext", [7]), finished(back.id)))
    assert await collect(older) == [Started(1, 1), finished(1)]
    expected = [Started(2, 1), TextDelta(2, "n", tokens), TextDelta(2, "ext", [7]), finished(2)]
    assert await collect(newer) == expected


async def test_a_request_that_only_waited_for_the_device_is_not_blamed(
    generations: RequestRegistry, worker: RecordedWorker
) -> None:
    worker.max_running = 1
    running, waiting = await generations.open(asked()), await generations.open(asked())
    die(generations)
    assert die(generations)
    with pytest.raises(WorkerCrashed):
        await running.start()
    generations.worker_stepped(step(Started(2, 1), finished(2)))
    assert await collect(waiting) == [Started(2, 1), finished(2)]


async def test_where_no_worker_lives_all_requests_are_told(generations: RequestRegistry) -> None:
    generation = await generations.open(asked())
    generations.worker_lost()
    generations.worker_given_up("too many deaths")
    with pytest.raises(WorkerUnavailable) as caught:
        await generation.start()
    assert (caught.value.code, caught.value.message) == ("failed", "too many deaths")


@pytest.mark.parametrize("status", ["loading", "draining", "failed"])
async def test_without_a_worker_to_come_nothing_is_taken(
    generations: RequestRegistry, worker: RecordedWorker, status: Status
) -> None:
    worker.status = status
    with pytest.raises(WorkerUnavailable) as caught:
        await generations.open(asked())
    assert caught.value.code == status
    assert worker.sent == []


async def test_a_request_may_wait_for_the_first_worker(worker: RecordedWorker) -> None:
    worker.status = "loading"
    await ready(worker, load_wait_s=5).open(asked())
    assert len(worker.sent) == 1


async def test_a_request_during_a_restart_is_kept_for_the_next_worker(
    generations: RequestRegistry, worker: RecordedWorker
) -> None:
    worker.status = "restarting"
    await generations.open(asked())
    assert len(generations) == 1


async def test_a_request_that_the_device_does_not_take_in_time_is_ended(
    worker: RecordedWorker,
) -> None:
    generations = ready(worker, queue_timeout_s=0.01)
    taken, waiting = await generations.open(asked()), await generations.open(asked())
    generations.worker_stepped(step(Started(1, 1)))
    with pytest.raises(WorkerUnavailable) as caught:
        await waiting.start()
    assert caught.value.code == "queue_timeout"
    assert worker.sent[-1] == Cancel([2])
    await taken.start()
    assert len(generations) == 1


async def test_a_request_that_lost_its_worker_unbegun_waits_no_longer_than_others(
    worker: RecordedWorker,
) -> None:
    generations = ready(worker, queue_timeout_s=0.01)
    generation = await generations.open(asked())
    generations.worker_lost()
    with pytest.raises(WorkerUnavailable) as caught:
        await generation.start()
    assert caught.value.code == "queue_timeout"
    assert len(generations) == 0


async def test_an_answer_that_has_begun_waits_for_the_next_worker_however_long(
    worker: RecordedWorker,
) -> None:
    generations = ready(worker, queue_timeout_s=0.01)
    begun, waiting = await generations.open(asked()), await generations.open(asked())
    generations.worker_stepped(step(Started(1, 1), TextDelta(1, "a", [7])))
    generations.worker_lost()
    with pytest.raises(WorkerUnavailable):
        await waiting.start()
    generations.worker_ready()
    generations.worker_stepped(step(Started(1, 1), TextDelta(1, "b", [8]), finished(1)))
    events = [Started(1, 1), TextDelta(1, "a", [7]), TextDelta(1, "b", [8]), finished(1)]
    assert await collect(begun) == events


async def test_no_more_are_in_flight_than_may_be(generations: RequestRegistry) -> None:
    await generations.open(asked(2))
    with pytest.raises(Overloaded):
        await generations.open(asked(2))
    await generations.open(asked(1))


async def test_ending_all_tells_each_request_and_leaves_none(generations: RequestRegistry) -> None:
    opened = [await generations.open(asked()), await generations.open(asked())]
    generations.fail_all(WorkerUnavailable("The end.", code="draining"))
    await generations.wait_idle()
    for generation in opened:
        with pytest.raises(WorkerUnavailable):
            await generation.start()
