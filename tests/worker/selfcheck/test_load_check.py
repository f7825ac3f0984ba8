"""At its load a model is checked, and passes are timed: of all sizes where drafts are verified."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import mlx.nn as nn
import pytest
from mlx_lm.utils import load_model

from protocol.batching import SpeculationMode
from tests.models import unbatched
from tests.models.architectures.making import build
from tests.models.architectures.table import config_of
from tests.models.failing import FailingModel
from worker.engine.batches.speculation.cost_curve import CostCurve
from worker.engine.prefill_budget import PrefillLimits
from worker.selfcheck.check_store import CheckStore
from worker.selfcheck.load_check import LoadCheck
from worker.selfcheck.pass_timing import PROMPT_TOKENS, TIMED_PLACES, TIMED_ROWS

LONG_S = 1e6
MOST_STEPS = 1000


def make_mamba() -> nn.Module:
    return unbatched.make_model("mamba")


def make_windowed() -> nn.Module:
    """A model all of whose layers of attention have windows."""
    return build(config_of("recurrent_gemma"))


def start(
    model: nn.Module, curve: CostCurve, mode: SpeculationMode = "auto", folder: Path | None = None
) -> LoadCheck:
    return LoadCheck(
        model,
        CheckStore(folder, []),
        "key",
        name="tiny",
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


def test_a_pass_is_timed_with_speculation_off(llama_path: Path, tmp_path: Path) -> None:
    model, _ = load_model(llama_path)
    # The second time the result of the check is read.
    for _ in range(2):
        curve = CostCurve()
        finish(start(model, curve, "off", tmp_path))
        assert curve.pass_bytes() > 0
        assert curve.is_empty


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_a_pass_is_timed_of_a_model_with_some_plain_attention(mode: SpeculationMode) -> None:
    check = start(unbatched.make_model("jamba"), curve := CostCurve(), mode)
    finish(check)
    assert not check.rules.verifies_drafts
    assert curve.pass_bytes() > 0


@pytest.mark.parametrize("make", [make_mamba, make_windowed], ids=["recurrent", "windows"])
def test_a_model_whose_attention_cannot_be_measured_is_named_in_the_log(
    make: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "worker.selfcheck.pass_timing")
    finish(start(make(), curve := CostCurve()))
    assert (curve.attended_bytes_s, curve.pass_bytes()) == (0.0, 0)
    assert caplog.text.count("tiny: the speed of its attention cannot be measured") == 1


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
