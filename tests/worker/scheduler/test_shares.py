"""Shares of the running places: who is preempted for whom, alone and in the engine core."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from protocol.events import Started
from protocol.messages import Sampling, Step, Submit, TextPrompt
from tests.worker.driver import make_pool, run_loop, tokens_of
from worker.intake.prepared import prepare
from worker.intake.receiver import Work
from worker.scheduler.preemption.shares import PROGRESS_TOKENS, Place, preempt_for_shares

CLIENTS = ("a", "b", "c")
ANSWER_TOKENS = 24

running_places = st.lists(st.tuples(st.sampled_from(CLIENTS), st.booleans()), max_size=12).map(
    lambda drawn: [Place(id, client, fixed) for id, (client, fixed) in enumerate(drawn)]
)
waiting_counts = st.dictionaries(st.sampled_from(CLIENTS), st.integers(1, 20))


@given(running_places, waiting_counts, st.integers(1, 16))
def test_only_a_client_above_half_loses_places_and_only_to_half(
    running: list[Place], waiting: dict[str, int], places: int
) -> None:
    held = Counter(place.client for place in running)
    victims = preempt_for_shares(running, waiting, places)
    share = max(places // 2, 1)
    lost = Counter(place.client for place in running if place.id in victims)
    assert len(lost) <= 1
    for client, count in lost.items():
        assert held[client] - count >= share
        others = sum(number for other, number in waiting.items() if other != client)
        assert count <= others
    assert not [place for place in running if place.fixed and place.id in victims]
    assert victims == sorted(victims, reverse=True)


@given(running_places, st.integers(1, 16), st.sampled_from(CLIENTS))
def test_nothing_is_preempted_for_a_client_that_is_alone(
    running: list[Place], places: int, client: str
) -> None:
    own = [place for place in running if place.client == client]
    assert preempt_for_shares(own, {client: 5}, places) == []


def test_as_many_are_preempted_as_the_others_need_and_may_have() -> None:
    running = [Place(id, "a", fixed=id == 0) for id in range(8)]
    assert preempt_for_shares(running, {"b": 1}, 8) == [7]
    assert preempt_for_shares(running, {"b": 20}, 8) == [7, 6, 5, 4]
    assert preempt_for_shares(running, {"b": 2, "c": 1, "a": 9}, 8) == [7, 6, 5]
    assert preempt_for_shares(running[:6], {"b": 3}, 8) == [5]


def test_what_comes_last_is_preempted_first() -> None:
    running = [Place(id, "a", priority=id % 3) for id in range(8)]
    assert preempt_for_shares(running, {"b": 3}, 8) == [5, 2, 7]


def test_the_only_place_is_kept_by_the_oldest_request() -> None:
    assert preempt_for_shares([Place(1, "a", fixed=True)], {"b": 3}, 1) == []


def request(id: int, client: str, path: Path) -> Submit:
    sampling = Sampling(seed=id, temperature=0.0 if id % 2 else 0.9)
    return Submit(
        id=id,
        model=path.name,
        prompt=TextPrompt(f"The story of number {id} begins"),
        sampling=sampling,
        max_tokens=ANSWER_TOKENS + PROGRESS_TOKENS,
        client=client,
    )


def test_another_client_starts_at_once_and_no_text_changes(llama_path: Path) -> None:
    pool = make_pool(llama_path)
    many = [request(id, "many", llama_path) for id in range(8)]
    few = [request(id, "few", llama_path) for id in (20, 21)]
    steps: list[Step] = []

    def add_few(step: Step) -> list[Work]:
        steps.append(step)
        if len(steps) == 4:
            return [prepare(pool[llama_path.name].config, submit) for submit in few]
        return []

    together = run_loop(pool, many, max_running=4, after_step=add_few)
    started = [event.id for step in together for event in step.events if isinstance(event, Started)]
    assert sorted(started[4:6]) == [20, 21]
    assert len(started) == len(set(started)) == len(many) + len(few)
    for submit in [*many, *few]:
        alone = run_loop(pool, [submit])
        assert tokens_of(together, submit.id) == tokens_of(alone, submit.id)


def test_a_client_that_sends_one_request_after_the_other_does_not_stop_the_work_of_another(
    llama_path: Path,
) -> None:
    pool = make_pool(llama_path)
    many = [request(id, "many", llama_path) for id in range(4)]
    sent: list[int] = []

    def ping(step: Step) -> list[Work]:
        if step.stats.running and len(sent) < 30:
            sent.append(100 + len(sent))
            return [prepare(pool[llama_path.name].config, request(sent[-1], "ping", llama_path))]
        return []

    together = run_loop(pool, many, max_running=4, after_step=ping)
    for submit in many:
        assert tokens_of(together, submit.id) == tokens_of(run_loop(pool, [submit]), submit.id)
