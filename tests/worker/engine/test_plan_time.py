"""Looking for drafts in vain takes a small share of the passes, and no new row waits for it."""

from __future__ import annotations

import pytest

from protocol.messages import Sampling
from worker.drafts.drafter import Drafter
from worker.engine.batches.speculation.plan_time import (
    FREE_SEARCHES,
    MAX_PAUSE_PASSES,
    MAX_SHARE,
    PlanTime,
)
from worker.engine.sampler import Row, make_row

PASS_S = 0.001
PASSES = 2000


def make_rows(count: int, known_tokens: int = 1) -> list[Row]:
    """Rows with these tokens of their answers."""
    sampling = Sampling(seed=0, temperature=0.0)
    return [make_row(sampling, drafter=Drafter([1], [2] * known_tokens)) for _ in range(count)]


def search(plan_time: PlanTime, rows: list[Row], search_s: float, passes: int = PASSES) -> int:
    """How many searches in vain, which take so long, are made in these passes."""
    searches = 0
    for _ in range(passes):
        if plan_time.is_due(rows):
            searches += 1
            plan_time.count_search(search_s, in_vain=True)
        plan_time.count_pass(PASS_S)
    return searches


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_searches_in_vain_take_a_small_share_of_the_passes(share: float) -> None:
    plan_time, rows = PlanTime(), make_rows(4)
    search(plan_time, rows, share * PASS_S, FREE_SEARCHES)
    spent_s = search(plan_time, rows, share * PASS_S) * share * PASS_S
    assert 0 < spent_s / (PASSES * PASS_S) <= MAX_SHARE * 1.1


def test_quick_searches_are_made_in_each_pass() -> None:
    assert search(PlanTime(), make_rows(4), MAX_SHARE * PASS_S) == PASSES


def test_a_pause_is_bounded() -> None:
    plan_time, rows = PlanTime(), make_rows(4)
    search(plan_time, rows, 10 * PASS_S, FREE_SEARCHES)
    assert search(plan_time, rows, 10 * PASS_S) >= PASSES // (MAX_PAUSE_PASSES + 1)


def test_searches_that_pay_have_no_pause() -> None:
    plan_time, rows = PlanTime(), make_rows(1)
    for _ in range(PASSES):
        assert plan_time.is_due(rows)
        plan_time.count_search(PASS_S, in_vain=False)
        plan_time.count_pass(PASS_S)


def test_what_was_in_vain_for_others_does_not_count_for_a_new_row() -> None:
    plan_time, rows = PlanTime(), make_rows(1)
    search(plan_time, rows, 10 * PASS_S, FREE_SEARCHES + 2)
    assert not plan_time.is_due(rows)
    new = make_rows(1, known_tokens=0)
    assert plan_time.is_due(new)
    assert search(plan_time, rows, 10 * PASS_S, FREE_SEARCHES) == FREE_SEARCHES


def test_a_new_row_beside_many_shortens_their_pause_by_its_share() -> None:
    waits = []
    for new in (0, 1, 3):
        plan_time, rows = PlanTime(), make_rows(4)
        search(plan_time, rows, 10 * PASS_S, FREE_SEARCHES + 1)
        rows[:new] = make_rows(new, known_tokens=0)
        passes = 0
        while not plan_time.is_due(rows if not passes else make_rows(4)):
            plan_time.count_pass(PASS_S)
            passes += 1
        waits.append(passes)
    assert waits == sorted(waits, reverse=True)
    assert len(set(waits)) == 3
