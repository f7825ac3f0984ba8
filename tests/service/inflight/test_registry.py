"""Requests in flight: each event reaches its request, and no request is lost in a worker crash."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from protocol.events import Event, Failed, Rejected, Started, TextDelta
from protocol.messages import Cancel, Step, Submit
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
from service.schema.health import HealthStatus
from tests.service.inflight.recording_worker import RecordingWorker
from tests.service.records import IDLE, make_finished, make_submit
from tests.waiting import HANG_S

pytestmark = pytest.mark.anyio

MAX_IN_FLIGHT = 3


@pytest.fixture
def worker() -> RecordingWorker:
    return RecordingWorker()


@pytest.fixture
def registry(worker: RecordingWorker) -> RequestRegistry:
    return ready(worker)


def ready(worker: RecordingWorker, *, load_wait_s: float = 0) -> RequestRegistry:
    """A registry whose worker has loaded."""
    registry = RequestRegistry(
        worker,
        max_in_flight=MAX_IN_FLIGHT,
        load_wait_s=load_wait_s,
        queue_timeout_s=60,
        clock=lambda: 0.0,
    )
    registry.worker_ready()
    return registry


def submits(count: int = 1) -> list[Submit]:
    return [make_submit(0) for _ in range(count)]


def step(*events: Event) -> Step:
    return Step(list(events), IDLE)


async def collect(request: InflightRequest) -> list[Event]:
    return [event async for batch in request.batches() for event in batch.events]


async def test_each_request_gets_its_own_events(registry: RequestRegistry) -> None:
    first, second = await registry.open(submits()), await registry.open(submits())
    registry.worker_stepped(step(Started(1, 5), Started(2, 6)))
    registry.worker_stepped(step(TextDelta(2, "b", [2]), TextDelta(1, "a", [1])))
    registry.worker_stepped(step(make_finished(1), make_finished(2)))
    assert await collect(first) == [Started(1, 5), TextDelta(1, "a", [1]), make_finished(1)]
    assert await collect(second) == [Started(2, 6), TextDelta(2, "b", [2]), make_finished(2)]
    assert len(registry) == 0


async def test_a_request_of_several_sequences_ends_with_the_last(
    registry: RequestRegistry,
) -> None:
    request = await registry.open(submits(2))
    registry.worker_stepped(step(Started(1, 1), Started(2, 1), make_finished(2)))
    registry.worker_stepped(step(make_finished(1)))
    await request.start()
    events = await collect(request)
    assert [request.index(event) for event in events] == [0, 1, 1, 0]


async def test_a_rejected_sequence_fails_the_request_before_it_starts(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    request = await registry.open(submits(2))
    registry.worker_stepped(step(Started(1, 1)))
    registry.worker_stepped(step(Rejected(2, "context_length_exceeded", "too long", "prompt")))
    with pytest.raises(InvalidRequest) as caught:
        await request.start()
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    assert worker.sent[-1] == Cancel([1])
    assert len(registry) == 0


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (Rejected(1, "internal_error", "a fault"), InternalError),
        (Rejected(1, "no_known_code", "a fault"), InternalError),
        (Failed(1, "a fault"), GenerationFailed),
    ],
)
async def test_an_internal_error_of_the_worker_is_one_of_the_service(
    registry: RequestRegistry, event: Event, kind: type[MlxdError]
) -> None:
    request = await registry.open(submits())
    registry.worker_stepped(step(event))
    with pytest.raises(kind):
        await request.start()


async def test_leaving_an_unfinished_request_cancels_it(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    async with await registry.open(submits(2)):
        registry.worker_stepped(step(Started(1, 1), make_finished(1)))
    assert worker.sent[-1] == Cancel([2])
    assert len(registry) == 0


async def test_leaving_a_finished_request_sends_nothing(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    async with await registry.open(submits()):
        registry.worker_stepped(step(Started(1, 1), make_finished(1)))
    assert [type(message) for message in worker.sent] == [Submit]


async def test_a_client_that_disconnects_ends_the_wait_of_its_handler(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    request = await registry.open(submits())
    waiting = asyncio.create_task(request.start())
    await asyncio.sleep(0)
    request.abandon()
    with pytest.raises(ClientDisconnected):
        await waiting
    assert worker.sent[-1] == Cancel([1])


async def test_events_of_a_cancelled_request_are_dropped(registry: RequestRegistry) -> None:
    request = await registry.open(submits())
    request.abandon()
    registry.worker_stepped(step(Started(1, 1), TextDelta(1, "late", [1]), make_finished(1)))
    assert len(registry) == 0


async def test_a_new_worker_gets_each_request_with_the_tokens_received_so_far(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    request = await registry.open(submits(2))
    registry.worker_stepped(step(Started(1, 1), Started(2, 1), TextDelta(1, "a", [7])))
    registry.worker_stepped(step(TextDelta(1, "", [8]), make_finished(2)))
    registry.worker_lost()
    registry.worker_ready()
    [resumed] = [m for m in worker.sent[2:] if isinstance(m, Submit)]
    assert (resumed.id, resumed.resume) == (1, [7, 8])
    registry.worker_stepped(step(Started(1, 1), TextDelta(1, "b", [9]), make_finished(1)))
    events = await collect(request)
    assert [type(event) for event in events].count(Started) == 2
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "ab"


def siblings(count: int) -> list[Submit]:
    """Sequences that continue one prompt, with the seeds 0, 1, ..."""
    first = make_submit(0)
    return [
        msgspec.structs.replace(first, sampling=msgspec.structs.replace(first.sampling, seed=seed))
        for seed in range(count)
    ]


async def test_the_sequences_of_a_prompt_are_sent_as_one_message_at_first_and_at_a_resume(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    request = await registry.open(siblings(3))
    assert [m.sequences() for m in worker.sent if isinstance(m, Submit)] == [
        [msgspec.structs.replace(each, id=id) for id, each in enumerate(siblings(3), start=1)]
    ]
    registry.worker_stepped(step(Started(1, 1), Started(2, 1), TextDelta(2, "a", [7])))
    registry.worker_stepped(step(make_finished(1)))
    worker.sent.clear()
    crash(registry)
    [resumed] = worker.sent
    assert isinstance(resumed, Submit)
    assert [(s.id, s.sampling.seed, s.resume) for s in resumed.sequences()] == [
        (2, 1, [7]),
        (3, 2, []),
    ]
    request.abandon()


async def test_prompts_of_different_requests_are_sent_apart(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    [submit] = submits()
    await registry.open([submit])
    await registry.open([submit])
    assert [len(m.sequences()) for m in worker.sent if isinstance(m, Submit)] == [1, 1]


async def test_an_isolated_sequence_is_sent_without_its_siblings(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    await registry.open(siblings(2))
    worker.sent.clear()
    crash(registry)
    crash(registry)
    sent = [m for m in worker.sent if isinstance(m, Submit)]
    assert [[s.id for s in m.sequences()] for m in sent] == [[1, 2], [2]]


def crash(registry: RequestRegistry) -> bool:
    """Crash the worker and start the next one; whether a request was blamed."""
    blamed = registry.worker_lost()
    registry.worker_ready()
    return blamed


async def test_a_request_that_crashes_the_worker_again_fails(
    registry: RequestRegistry,
) -> None:
    request = await registry.open(submits())
    assert not crash(registry)
    assert crash(registry)
    with pytest.raises(WorkerCrashed):
        await request.start()
    assert len(registry) == 0


async def test_a_request_goes_on_after_any_number_of_losses_that_none_can_cause(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    await registry.open(submits())
    for _ in range(5):
        worker.sent.clear()
        assert not registry.worker_lost(blameless=True)
        registry.worker_ready()
        assert [m.id for m in worker.sent if isinstance(m, Submit)] == [1]


async def test_suspects_run_alone_and_after_the_blame_the_others_run_together(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    harmless, crashing = await registry.open(submits()), await registry.open(submits())
    for _ in range(2):
        worker.sent.clear()
        assert not crash(registry)
    assert [m.id for m in worker.sent if isinstance(m, Submit)] == [2]
    worker.sent.clear()
    assert crash(registry)
    assert [m.id for m in worker.sent if isinstance(m, Submit)] == [1]
    with pytest.raises(WorkerCrashed):
        await crashing.start()
    registry.worker_stepped(step(Started(1, 1), make_finished(1)))
    assert await collect(harmless) == [Started(1, 1), make_finished(1)]


async def test_late_events_of_a_withdrawn_sequence_are_dropped(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    older, newer = await registry.open(submits()), await registry.open(submits())
    for _ in range(2):
        crash(registry)
    tokens = list(range(MARGIN_TOKENS))
    worker.sent.clear()
    registry.worker_stepped(step(Started(2, 1), TextDelta(2, "n", tokens)))
    assert worker.sent == [Cancel([2]), make_submit(1)]
    worker.sent.clear()
    registry.worker_stepped(step(TextDelta(2, "late", [99]), Started(1, 1), make_finished(1)))
    [resumed] = worker.sent
    assert isinstance(resumed, Submit)
    assert (resumed.id != 2, resumed.resume) == (True, tokens)
    registry.worker_stepped(step(TextDelta(2, "later", [99]), Started(resumed.id, 1)))
    registry.worker_stepped(step(TextDelta(resumed.id, "ext", [7]), make_finished(resumed.id)))
    assert await collect(older) == [Started(1, 1), make_finished(1)]
    expected = [
        Started(2, 1),
        TextDelta(2, "n", tokens),
        TextDelta(2, "ext", [7]),
        make_finished(2),
    ]
    assert await collect(newer) == expected


async def test_a_suspect_that_ends_with_the_token_that_confirms_it_is_not_resumed(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    await registry.open(submits())
    suspect = await registry.open(submits())
    for _ in range(2):
        crash(registry)
    worker.sent.clear()
    last = TextDelta(2, "n", list(range(MARGIN_TOKENS)))
    registry.worker_stepped(step(Started(2, 1), last, make_finished(2)))
    assert worker.sent == [make_submit(1)]
    assert await collect(suspect) == [Started(2, 1), last, make_finished(2)]


async def test_a_request_that_only_waited_for_the_device_is_not_blamed(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    worker.max_running = 1
    running, waiting = await registry.open(submits()), await registry.open(submits())
    crash(registry)
    assert crash(registry)
    with pytest.raises(WorkerCrashed):
        await running.start()
    registry.worker_stepped(step(Started(2, 1), make_finished(2)))
    assert await collect(waiting) == [Started(2, 1), make_finished(2)]


async def test_all_requests_fail_when_the_worker_is_given_up(registry: RequestRegistry) -> None:
    request = await registry.open(submits())
    registry.worker_lost()
    registry.worker_given_up("too many crashes")
    with pytest.raises(WorkerUnavailable) as caught:
        await request.start()
    assert (caught.value.code, caught.value.message) == ("failed", "too many crashes")


@pytest.mark.parametrize("status", ["loading", "draining", "failed"])
async def test_a_service_that_is_not_serving_accepts_no_request(
    registry: RequestRegistry, worker: RecordingWorker, status: HealthStatus
) -> None:
    worker.status = status
    with pytest.raises(WorkerUnavailable) as caught:
        await registry.open(submits())
    assert caught.value.code == status
    assert worker.sent == []


async def test_a_request_can_wait_for_the_first_worker(worker: RecordingWorker) -> None:
    worker.status = "loading"
    registry = ready(worker, load_wait_s=HANG_S)
    await registry.wait_loaded()
    await registry.open(submits())
    assert len(worker.sent) == 1


async def test_a_request_during_a_restart_is_kept_for_the_next_worker(
    registry: RequestRegistry, worker: RecordingWorker
) -> None:
    worker.status = "restarting"
    await registry.open(submits())
    assert len(registry) == 1


async def test_the_number_of_sequences_in_flight_is_bounded(registry: RequestRegistry) -> None:
    await registry.open(submits(2))
    with pytest.raises(Overloaded):
        await registry.open(submits(2))
    await registry.open(submits(1))


async def test_fail_all_fails_each_request_and_leaves_none(registry: RequestRegistry) -> None:
    opened = [await registry.open(submits()), await registry.open(submits())]
    registry.fail_all(WorkerUnavailable("The end.", code="draining"))
    await registry.wait_idle()
    for request in opened:
        with pytest.raises(WorkerUnavailable):
            await request.start()


async def test_a_request_that_cannot_be_sent_holds_no_place(
    registry: RequestRegistry, worker: RecordingWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(message: object) -> None:
        if isinstance(message, Submit):
            raise OverflowError

    monkeypatch.setattr(worker, "send", refuse)
    for _ in range(MAX_IN_FLIGHT + 1):
        with pytest.raises(OverflowError):
            await registry.open(submits())
    monkeypatch.undo()
    await registry.open(submits())
    assert isinstance(worker.sent[-1], Submit)
    assert len(registry) == 1
