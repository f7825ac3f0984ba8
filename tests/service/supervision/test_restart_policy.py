"""The pace of restarts: quick after a first death, slow after many, half the work after some."""

from __future__ import annotations

from service.supervision.restart_policy import RestartLimits, RestartPolicy

PACE = RestartLimits(
    first_back_off_s=1.0,
    longest_back_off_s=5.0,
    sound_after_s=10.0,
    deaths_tolerated=5,
    window_s=100.0,
    slow_retry_s=60.0,
)


def restarts() -> RestartPolicy:
    return RestartPolicy(PACE, max_running=8)


def delays(
    given: RestartPolicy, count: int, *, ready_s: float = 0.0, every_s: float = 0.0
) -> list[float]:
    seen = []
    for death in range(count):
        given.note_death(death * every_s, ready_s)
        seen.append(given.delay_s)
    return seen


def test_the_wait_doubles_up_to_its_bound_and_is_long_after_too_many_deaths() -> None:
    given = restarts()
    assert delays(given, 4) == [1.0, 2.0, 4.0, 5.0]
    assert not given.too_many
    assert delays(given, 1) == [60.0]
    assert given.too_many


def test_deaths_of_sound_workers_are_first_ones_however_many() -> None:
    assert delays(restarts(), 20, ready_s=10.0) == [1.0] * 20


def test_deaths_of_long_ago_do_not_count() -> None:
    given = restarts()
    delays(given, 20, every_s=30.0)
    assert not given.too_many


def test_deaths_whose_cause_was_found_do_not_count() -> None:
    given = restarts()
    delays(given, 4)
    given.explain()
    assert delays(given, 1) == [1.0]


def test_the_work_at_once_is_halved_down_to_one_and_grows_back_step_by_step() -> None:
    given = restarts()
    halved = [(given.halve(), given.max_running) for _ in range(4)]
    assert halved == [(True, 4), (True, 2), (True, 1), (False, 1)]
    assert not given.grow(9.9)
    grown = [(given.grow(10.0), given.max_running) for _ in range(4)]
    assert grown == [(True, 2), (True, 4), (True, 8), (False, 8)]


def test_a_number_that_is_no_power_of_two_comes_back_whole() -> None:
    given = RestartPolicy(PACE, max_running=7)
    given.halve()
    given.grow(10.0)
    given.grow(10.0)
    assert given.max_running == 7
