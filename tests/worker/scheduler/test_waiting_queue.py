"""The order of waiting requests: first in, first out of one client, fair turns of several."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.messages import ModelSource, Sampling, Submit, TokenPrompt
from tests.worker.driver import make_config_loader
from worker.intake.prepared import PreparedRequest
from worker.models.model_config import ModelConfig
from worker.scheduler.waiting_queue import FAIR_TURN, WaitingQueue

CLIENTS = ("a", "b", "c")


@pytest.fixture(scope="module")
def config(llama_path: Path) -> ModelConfig:
    return make_config_loader().load(ModelSource("m", str(llama_path)), download=False)


def prepared(id: int, client: str, config: ModelConfig, priority: int = 0) -> PreparedRequest:
    submit = Submit(
        id=id,
        model="m",
        prompt=TokenPrompt([1]),
        sampling=Sampling(seed=0),
        client=client,
        priority=priority,
    )
    return PreparedRequest(
        submit=submit, prompt=[1], max_tokens=1, echo="", received_at=float(id), config=config
    )


def drain(queue: WaitingQueue, running: Counter[str]) -> list[int]:
    """The ids in the order in which the requests start; none of them ends."""
    order = []
    while (head := queue.peek("m", running)) is not None:
        queue.remove([head.submit.id])
        running[head.submit.client] += 1
        order.append(head.submit.id)
    return order


def test_the_requests_of_one_client_start_in_order_of_arrival(config: ModelConfig) -> None:
    queue = WaitingQueue()
    for id in range(5):
        queue.append(prepared(id, "a", config))
    assert queue.oldest_since("m") == 0.0
    assert drain(queue, Counter()) == [0, 1, 2, 3, 4]
    assert (len(queue), queue.models, queue.oldest_since("m")) == (0, [], None)


@given(
    arrivals=st.lists(st.tuples(st.sampled_from(CLIENTS), st.integers(0, 1)), max_size=12),
    former=st.sampled_from(CLIENTS),
    client=st.sampled_from(CLIENTS),
)
def test_a_client_that_is_another_one_has_its_places_among_those_of_that(
    config: ModelConfig, arrivals: list[tuple[str, int]], former: str, client: str
) -> None:
    renamed, named = WaitingQueue(), WaitingQueue()
    for id, (name, priority) in enumerate(arrivals):
        renamed.append(prepared(id, name, config, priority))
        named.append(prepared(id, client if name == former else name, config, priority))
    renamed.rename_client(former, client)
    assert renamed.waiting_of("m") == named.waiting_of("m")
    assert drain(renamed, Counter()) == drain(named, Counter())


def test_a_preempted_request_is_the_next_one_of_its_client(config: ModelConfig) -> None:
    queue = WaitingQueue()
    queue.append(prepared(1, "a", config))
    queue.push_front(prepared(9, "a", config))
    assert drain(queue, Counter()) == [9, 1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(CLIENTS), max_size=30),
    st.dictionaries(st.sampled_from(CLIENTS), st.integers(0, 8)),
)
def test_places_go_to_the_client_that_has_the_fewest(
    config: ModelConfig, arrivals: list[str], held: dict[str, int]
) -> None:
    queue = WaitingQueue()
    for id, client in enumerate(arrivals):
        queue.append(prepared(id, client, config))
    waiting, running = queue.waiting_of("m"), Counter(held)
    for id in drain(queue, Counter(held)):
        client = arrivals[id]
        assert all(running[client] <= running[other] for other in waiting if waiting[other])
        waiting[client] -= 1
        running[client] += 1
    assert not any(waiting.values())


def test_a_lower_priority_comes_first_and_a_tie_in_order_of_arrival(config: ModelConfig) -> None:
    queue = WaitingQueue()
    for id, priority in enumerate((0, 5, -3, 0, -3)):
        queue.append(prepared(id, "a", config, priority))
    starts = []
    for _ in range(FAIR_TURN - 1):
        head = queue.peek("m")
        assert head is not None
        queue.take(head)
        starts.append(head.submit.id)
    assert starts == [2, 4, 0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(CLIENTS), st.integers(-5, 5)), min_size=1, max_size=40),
    st.integers(0, 39),
    st.integers(1, 3),
)
def test_a_request_of_the_last_priority_waits_for_a_bounded_number_of_others(
    config: ModelConfig, arrivals: list[tuple[str, int]], position: int, rate: int
) -> None:
    """More urgent ones of the same client arrive behind it with each place that is given."""
    queue, position = WaitingQueue(), min(position, len(arrivals) - 1)
    for id, (_, priority) in enumerate(arrivals):
        queue.append(prepared(id, "a", config, 100 if id == position else priority))
    new = len(arrivals)
    for _given in range(1, FAIR_TURN * (position + 1) + 1):
        head = queue.peek("m")
        assert head is not None
        queue.take(head)
        if head.submit.id == position:
            return
        for _ in range(rate):
            queue.append(prepared(new, "a", config, -100))
            new += 1
    raise AssertionError("it still waits")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(CLIENTS), st.integers(-5, 5)), max_size=30),
    st.integers(2, 16),
)
def test_no_priority_takes_more_than_half_of_the_places_while_another_client_waits(
    config: ModelConfig, arrivals: list[tuple[str, int]], places: int
) -> None:
    queue, running = WaitingQueue(), Counter[str]()
    for id, (client, priority) in enumerate(arrivals):
        queue.append(prepared(id, client, config, priority))
    while running.total() < places:
        waiting = queue.waiting_of("m")
        if (head := queue.peek("m", running, places)) is None:
            break
        queue.take(head)
        client = head.submit.client
        others = [other for other in waiting if other != client and running[other] < places // 2]
        assert running[client] < places // 2 or not others
        running[client] += 1
