"""Steps are summed in total and per second, and only the last minutes are kept."""

from __future__ import annotations

import pytest

from protocol.stats import Memory, Stats
from service.telemetry.step_stats import KEPT_S, StepStats


class Clock:
    """Unix time that changes only when `now` is set."""

    now = 1000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def step(*tokens: int, running: int = 1, waiting: int = 0, memory: int = 0) -> tuple[Stats, int]:
    """The statistics of a step, and the sum of `tokens`, one number per sequence."""
    stats = Stats(
        running=running,
        waiting=waiting,
        memory=Memory(active=memory),
        device_ms=2.0,
        host_ms=0.5,
        steps=1,
        step_sequences=running,
        preparation_ms=3.0,
        preparation_bytes=7,
        preempted=1,
        recomputed_tokens=30,
    )
    return stats, sum(tokens)


def test_steps_add_up_to_totals(clock: Clock) -> None:
    step_stats = StepStats(clock)
    step_stats.add_step(*step(1, 2, running=2))
    step_stats.add_step(*step(1, running=1))
    totals = step_stats.totals
    assert (totals.steps, totals.step_sequences, totals.tokens) == (2, 3, 4)
    assert totals.device_s == pytest.approx(0.004)
    assert totals.host_s == pytest.approx(0.001)
    assert totals.preparation_s == pytest.approx(0.006)
    assert totals.preparation_bytes == 14
    assert (totals.preempted, totals.recomputed_tokens) == (2, 60)


def test_a_second_has_the_sum_of_its_tokens_and_its_last_state(clock: Clock) -> None:
    step_stats = StepStats(clock)
    step_stats.add_step(*step(3, running=5, waiting=4, memory=10))
    step_stats.add_step(*step(2, running=1, waiting=2, memory=30))
    step_stats.add_first_token(0.25)
    clock.now += 1
    step_stats.add_step(*step(1))
    first, second = step_stats.since(0)
    assert (first.at, first.tokens, first.running, first.waiting) == (1000, 5, 1, 2)
    assert (first.most_running, first.most_waiting) == (5, 4)
    assert (first.memory_bytes, first.first_tokens, first.first_token_s) == (30, 1, 0.25)
    assert (second.at, second.tokens) == (1001, 1)


def test_since_returns_only_later_seconds(clock: Clock) -> None:
    step_stats = StepStats(clock)
    for _ in range(3):
        step_stats.add_step(*step(1))
        clock.now += 1
    assert [second.at for second in step_stats.since(1000)] == [1001, 1002]


def test_since_returns_no_second_older_than_the_window(clock: Clock) -> None:
    step_stats = StepStats(clock)
    step_stats.add_step(*step(1))
    clock.now += KEPT_S + 1
    assert step_stats.since(0) == []


def test_no_token_is_lost_if_the_clock_is_set_back(clock: Clock) -> None:
    step_stats = StepStats(clock)
    step_stats.add_step(*step(1))
    clock.now -= 500
    step_stats.add_step(*step(1))
    assert [second.tokens for second in step_stats.since(0)] == [2]
