"""What a pass is reckoned to cost: by measurements, less by old and single ones, and by a curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from protocol.messages import Sampling
from tests.models.failing import FailingModel
from worker.drafts.drafter import Drafter
from worker.engine.batches.decode_groups import PaddingCost
from worker.engine.batches.speculation.cost_curve import CostCurve
from worker.engine.batches.speculation.draft_plan import (
    MAX_STRETCH,
    Candidate,
    choose_size,
    draft_row,
    list_gains,
)
from worker.engine.batches.speculation.pass_costs import HALF_LIFE_PASSES, PassCosts, reckon
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row
from worker.memory.kv_cost import KVCost

GREEDY = Sampling(seed=0, temperature=0.0)


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


def curve_of(seconds: Mapping[tuple[int, int], float]) -> CostCurve:
    curve = CostCurve()
    for (rows, places), each in seconds.items():
        curve.add(rows, places, each)
    return curve


def test_a_curve_has_straight_lines_between_what_was_measured_and_beyond() -> None:
    curve = curve_of({(1, 1): 1.0, (1, 7): 4.0, (4, 1): 2.0, (4, 3): 4.0, (4, 7): 14.0})
    assert [curve.seconds(1, n) for n in (1, 3, 7, 9)] == pytest.approx([1.0, 2.0, 4.0, 5.0])
    assert curve.seconds(2, 3) == pytest.approx(2.0 + (4.0 - 2.0) / 3)
    assert curve.relative(4, 5) == pytest.approx(4.5)
    assert curve.seconds(7, 7) == pytest.approx(24.0)


def test_of_several_measurements_of_a_curve_the_shortest_counts() -> None:
    curve = curve_of({(1, 1): 1.0, (1, 7): 9.0})
    curve.add(1, 7, 3.0)
    curve.add(1, 7, 8.0)
    assert curve.relative(1, 7) == pytest.approx(3.0)


def test_a_curve_without_a_pass_of_one_place_says_nothing() -> None:
    assert curve_of({(1, 7): 2.0}).is_empty
    assert curve_of({(1, 1): 2.0}).is_empty
    assert PassCosts(curve_of({(1, 7): 2.0})).relative(1, 4) == reckon(4)


def test_passes_that_are_measured_later_correct_the_curve() -> None:
    costs = PassCosts(curve_of({(2, 1): 1.0, (2, 7): 4.0}))
    assert costs.relative(2, 3) == pytest.approx(2.0)
    for _ in range(1000):
        costs.record(2, 7, 7.0)
        costs.record(2, 1, 1.0)
    assert costs.relative(2, 7) == pytest.approx(7.0, rel=0.05)
    assert costs.relative(2, 3) == pytest.approx(3.0, rel=0.05)


def candidate(prediction: list[int]) -> Candidate:
    row = make_row(Sampling(0, 0.0), prompt=[1, 2], drafter=Drafter([1, 2], (), prediction))
    return Candidate(row, 100, 7)


def predicted() -> Candidate:
    """A row whose next six tokens are as good as certain."""
    each = candidate([7, *range(100, 160)])
    assert each.row.drafter is not None
    for index, token in enumerate([7, *range(100, 140)]):
        each.row.drafter.learn(index, token)
    return Candidate(each.row, 100, 139)


def drafted(candidates: list[Candidate], cost: float, *, prompts_wait: bool = False) -> int:
    """How many tokens of a row are drafted where a pass with drafts costs so much."""
    gains = [list_gains(draft_row(each), each) for each in candidates]
    return choose_size(gains, lambda count: cost, prompts_wait=prompts_wait).count


def test_a_row_is_drafted_as_long_as_its_tokens_outweigh_the_cost_of_the_pass() -> None:
    assert drafted([predicted()], 4.0)
    assert drafted([predicted()], 7.0) == 0
    assert drafted([candidate([])], 1.0) == 0


def test_however_many_rows_are_drafted_where_it_pays() -> None:
    assert drafted([predicted() for _ in range(32)], 3.0)


def test_a_row_that_gains_nothing_waits_no_longer_than_the_bound_for_the_others() -> None:
    rows = [*(predicted() for _ in range(7)), candidate([])]
    assert drafted(rows, (MAX_STRETCH))
    assert drafted(rows, (MAX_STRETCH + 0.1)) == 0


def test_prompts_in_prefill_wait_no_longer_than_the_bound_for_their_turns() -> None:
    assert drafted([predicted()], (MAX_STRETCH), prompts_wait=True)
    assert drafted([predicted()], (MAX_STRETCH + 0.1), prompts_wait=True) == 0


def test_a_pass_costs_what_attention_reads_in_its_time_where_that_is_measured() -> None:
    # No pass of several places is needed for it.
    curve = curve_of({(1, 1): 0.5})
    cost = KVCost([], 32)
    padding = PaddingCost(cost, 10**9, curve)
    reckoned = PaddingCost(cost, 10**9).pass_bytes
    assert padding.pass_bytes == reckoned > 10**9
    curve.attended_bytes_s = 1000.0
    assert padding.pass_bytes == 500
    assert curve.is_empty


@pytest.mark.parametrize(("attended_bytes_s", "batches"), [(2.0, [1, 1]), (1e12, [2])])
def test_rows_of_an_engine_are_grouped_by_its_curve(
    attended_bytes_s: float, batches: list[int], llama_path: Path
) -> None:
    curve = curve_of({(1, 1): 0.5})
    calls: list[int] = []

    def note(inputs: mx.array) -> bool:
        calls.append(inputs.shape[0])
        return False

    model = FailingModel(load_model(llama_path)[0], ValueError(), note)
    engine = Engine(model, max_running=2, prefill=PrefillLimits(512), curve=curve)
    # It is measured after the engine is made.
    curve.attended_bytes_s = attended_bytes_s
    for id, prompt in enumerate([[5, 6, 7], list(range(3, 803))]):
        engine.insert(id, prompt, 100, make_row(GREEDY))
        while len(engine.step()) <= id:
            pass
    calls.clear()
    engine.step()
    assert calls == batches
