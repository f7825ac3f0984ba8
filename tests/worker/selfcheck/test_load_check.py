"""At its load a model is checked, and where drafts are verified its passes are timed."""

from __future__ import annotations

from pathlib import Path

import mlx.nn as nn
import pytest
from mlx_lm.utils import load_model

from protocol.batching import SpeculationMode
from tests.models import unbatched
from tests.models.failing import FailingModel
from worker.engine.batches.speculation.cost_curve import CostCurve
from worker.engine.prefill_budget import PrefillLimits
from worker.selfcheck.check_store import CheckStore
from worker.selfcheck.load_check import LoadCheck
from worker.selfcheck.pass_timing import PROMPT_TOKENS, TIMED_PLACES, TIMED_ROWS

LONG_S = 1e6
MOST_STEPS = 1000


def start(
    model: nn.Module, curve: CostCurve, mode: SpeculationMode = "auto", folder: Path | None = None
) -> LoadCheck:
    return LoadCheck(
        model,
        CheckStore(folder, []),
        "key",
        curve=curve,
        speculation=mode,
        vocabulary_size=500,
        limits=PrefillLimits(max_tokens=512),
        load_s=LONG_S,
    )


def finish(check: LoadCheck) -> int:
    """Do all of the check; the number of its steps."""
    steps = 1
    while not check.advance():
        steps += 1
    return steps


def test_passes_of_all_sizes_are_timed_where_drafts_are_verified(llama_path: Path) -> None:
    curve = CostCurve()
    check = start(load_model(llama_path)[0], curve)
    finish(check)
    assert check.rules.verifies_drafts
    assert not check.is_overdue
    assert curve.pass_bytes() > 0
    for rows in TIMED_ROWS:
        assert all(curve.seconds(rows, places) > 0 for places in TIMED_PLACES)


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_nothing_is_timed_where_no_drafts_are_verified(mode: SpeculationMode) -> None:
    curve = CostCurve()
    check = start(unbatched.make_model("jamba"), curve, mode)
    finish(check)
    assert curve.is_empty


def test_a_result_that_is_kept_is_not_found_out_again_but_passes_are_timed(
    llama_path: Path, tmp_path: Path
) -> None:
    model, _ = load_model(llama_path)
    first = start(model, CostCurve(), folder=tmp_path)
    steps = finish(first)
    curve = CostCurve()
    again = start(model, curve, folder=tmp_path)
    assert again.take_rules() == first.rules
    assert finish(again) < steps
    assert not curve.is_empty


def test_the_rules_are_news_once(llama_path: Path) -> None:
    check = start(load_model(llama_path)[0], CostCurve())
    assert check.take_rules() is None
    finish(check)
    assert check.take_rules() == check.rules
    assert check.take_rules() is None


def test_a_model_that_fails_only_while_its_passes_are_timed_is_used_without(
    llama_path: Path,
) -> None:
    # No prompt of the check before is so long.
    timed = PROMPT_TOKENS - 1
    model = FailingModel(
        load_model(llama_path)[0], ValueError("broken"), lambda inputs: inputs.shape == (1, timed)
    )
    check = start(model, curve := CostCurve())
    assert any(check.advance() for _ in range(MOST_STEPS))
    assert (model.failures, check.rules.verifies_drafts, curve.is_empty) == (1, True, True)
