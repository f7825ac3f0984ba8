"""Restarts are fast after a first exit and slow after many; `max_running` can be halved."""

from __future__ import annotations

from protocol.messages import Configure
from service.supervision.restart_policy import PrefillShortening, RestartLimits, RestartPolicy

LIMITS = RestartLimits(
    initial_back_off_s=1.0,
    max_back_off_s=5.0,
    healthy_after_s=10.0,
    exits_before_failure=5,
    window_s=100.0,
    slow_retry_s=60.0,
)


def make_policy() -> RestartPolicy:
    return RestartPolicy(LIMITS, max_running=8)


def delays(
    policy: RestartPolicy, count: int, *, ready_s: float = 0.0, every_s: float = 0.0
) -> list[float]:
    """The delay after each of `count` exits."""
    seen = []
    for number in range(count):
        policy.record_exit(number * every_s, ready_s)
        seen.append(policy.delay_s)
    return seen


def test_the_delay_doubles_up_to_its_bound_and_is_long_after_too_many_exits() -> None:
    policy = make_policy()
    assert delays(policy, 4) == [1.0, 2.0, 4.0, 5.0]
    assert not policy.too_many_exits
    assert delays(policy, 1) == [60.0]
    assert policy.too_many_exits


def test_each_exit_of_a_healthy_worker_counts_as_the_first() -> None:
    assert delays(make_policy(), 20, ready_s=10.0) == [1.0] * 20


def test_exits_before_the_window_do_not_count() -> None:
    policy = make_policy()
    delays(policy, 20, every_s=30.0)
    assert not policy.too_many_exits


def test_exits_whose_cause_was_found_do_not_count() -> None:
    policy = make_policy()
    delays(policy, 4)
    policy.clear()
    assert delays(policy, 1) == [1.0]


def test_max_running_is_halved_down_to_one_and_doubles_again_step_by_step() -> None:
    policy = make_policy()
    halved = [(policy.halve_max_running(), policy.max_running) for _ in range(4)]
    assert halved == [(True, 4), (True, 2), (True, 1), (False, 1)]
    assert not policy.raise_max_running(9.9)
    grown = [(policy.raise_max_running(10.0), policy.max_running) for _ in range(4)]
    assert grown == [(True, 2), (True, 4), (True, 8), (False, 8)]


def test_max_running_returns_to_a_number_that_is_no_power_of_two() -> None:
    policy = RestartPolicy(LIMITS, max_running=7)
    policy.halve_max_running()
    policy.raise_max_running(10.0)
    policy.raise_max_running(10.0)
    assert policy.max_running == 7


def test_slices_are_halved_with_each_slow_exit_down_to_an_eighth() -> None:
    configure = Configure(
        models=[],
        max_running=8,
        prefill_step_tokens=512,
        context_limit_tokens=0,
        memory_limit_bytes=0,
        cache_limit_bytes=0,
    )
    shortening = PrefillShortening()
    assert shortening.apply_to(configure) == configure
    sizes = []
    for reason in "abcde":
        shortening.halve(reason)
        short = shortening.apply_to(configure)
        sizes.append((short.prefill_step_tokens, short.prefill_rows, short.prefill_slice_s))
    assert sizes == [(256, 4, 0.5), (128, 2, 0.25), *[(64, 1, 0.125)] * 3]
    assert shortening.reason == "e"
