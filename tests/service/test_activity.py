"""Steps add up to totals and to seconds, and only the last minutes are kept."""

from __future__ import annotations

import pytest

from protocol.messages import Delta, Memory, Started, Stats, Step
from service.activity import KEPT_S, Activity


class Clock:
    """Unix time that stands until it is moved."""

    now = 1000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def step(*tokens: int, running: int = 1, waiting: int = 0, memory: int = 0) -> Step:
    """A step in which each sequence got so many tokens."""
    deltas = [Delta(id, "", [7] * count) for id, count in enumerate(tokens)]
    return Step([Started(9, 1), *deltas], Stats(running, waiting, Memory(active=memory), 2.0, 0.5))


def test_steps_add_up_to_totals(clock: Clock) -> None:
    activity = Activity(clock)
    activity.add_step(step(1, 2, running=2))
    activity.add_step(step(1, running=1))
    totals = activity.totals
    assert (totals.steps, totals.step_sequences, totals.tokens) == (2, 3, 4)
    assert totals.device_s == pytest.approx(0.004)
    assert totals.host_s == pytest.approx(0.001)


def test_a_second_counts_its_tokens_and_keeps_its_last_state(clock: Clock) -> None:
    activity = Activity(clock)
    activity.add_step(step(3, running=5, waiting=4, memory=10))
    activity.add_step(step(2, running=1, waiting=2, memory=30))
    activity.add_first_token(0.25)
    clock.now += 1
    activity.add_step(step(1))
    first, second = activity.since(0)
    assert (first.at, first.tokens, first.running, first.waiting) == (1000, 5, 1, 2)
    assert (first.most_running, first.most_waiting) == (5, 4)
    assert (first.memory_bytes, first.first_tokens, first.first_token_s) == (30, 1, 0.25)
    assert (second.at, second.tokens) == (1001, 1)


def test_only_what_came_after_is_told_again(clock: Clock) -> None:
    activity = Activity(clock)
    for _ in range(3):
        activity.add_step(step(1))
        clock.now += 1
    assert [second.at for second in activity.since(1000)] == [1001, 1002]


def test_seconds_older_than_what_is_kept_are_not_told(clock: Clock) -> None:
    activity = Activity(clock)
    activity.add_step(step(1))
    clock.now += KEPT_S + 1
    assert activity.since(0) == []


def test_a_clock_that_is_set_back_loses_nothing(clock: Clock) -> None:
    activity = Activity(clock)
    activity.add_step(step(1))
    clock.now -= 500
    activity.add_step(step(1))
    assert [second.tokens for second in activity.since(0)] == [2]
