"""What a pass is reckoned to cost: by measurements, and less by old and single ones."""

from __future__ import annotations

import pytest

from worker.engine.batches.speculation.pass_costs import HALF_LIFE_PASSES, PassCosts, reckon


def measured(places: int, seconds: float, times: int = 1000) -> PassCosts:
    costs = PassCosts()
    for _ in range(times):
        costs.record(2, places, seconds)
        costs.record(2, 1, 1.0)
    return costs


def test_before_it_is_measured_a_cost_is_reckoned() -> None:
    assert PassCosts().relative(2, 5) == reckon(5)
    assert measured(1, 1.0).relative(2, 5) == pytest.approx(reckon(5))


def test_a_size_that_is_measured_costs_what_it_took() -> None:
    assert measured(5, 3.0).relative(2, 5) == pytest.approx(3.0, rel=0.05)


def test_sizes_between_and_beyond_are_reckoned_from_those() -> None:
    costs = measured(5, 3.0)
    assert costs.relative(2, 3) == pytest.approx(2.0, rel=0.05)
    assert costs.relative(2, 7) == pytest.approx(4.0, rel=0.05)
    assert costs.relative(3, 5) == reckon(5)


def test_one_slow_pass_does_not_end_drafts_for_long() -> None:
    costs = measured(5, 10.0, times=1)
    single = costs.relative(2, 5)
    assert single < 10.0 / 2
    for _ in range(8 * HALF_LIFE_PASSES):
        costs.record(2, 1, 1.0)
    assert costs.relative(2, 5) == pytest.approx(reckon(5), rel=0.05)
