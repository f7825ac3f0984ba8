"""Passes of each size are compared before drafts are verified."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.utils import load_model

from protocol.batching import BatchRules
from protocol.quantisation import KVBits
from tests.models.failing import FailingModel
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.selfcheck.model_check import ModelCheck
from worker.selfcheck.pass_sizes import MOST_PLACES

LONG_S = 600.0

IsOther = Callable[[int, int, int], bool]


class OneOfSeveral(Engine):
    """The engine of one of several ranks."""

    computes_alone = False


def check(
    model: nn.Module,
    context_tokens: int | None = None,
    kv_bits: KVBits = 0,
    make_engine: type[Engine] = Engine,
) -> BatchRules:
    """The rules of a check that has all the time it needs."""
    running = ModelCheck(
        model,
        vocabulary_size=500,
        limits=PrefillLimits(max_tokens=512),
        context_tokens=context_tokens,
        min_budget_s=LONG_S,
        kv_bits=kv_bits,
        make_engine=make_engine,
        drafts=True,
    )
    while not running.advance():
        pass
    return running.rules


class RoundedOtherwise:
    """A model that rounds passes over several places otherwise, of these sizes.

    A size is the rows, the places and the tokens behind which they are. Prompts are intact: their
    first tokens are behind none.
    """

    def __init__(self, inner: nn.Module, is_other: IsOther) -> None:
        self.inner = inner
        self._is_other = is_other

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, inputs: mx.array, cache: list[Any]) -> mx.array:
        rows, places = inputs.shape
        behind = 0 if cache[0].keys is None else int(mx.max(mx.array(cache[0].offset)))
        logits: mx.array = self.inner(inputs, cache=cache)
        is_drafted = behind and 1 < places <= MOST_PLACES
        return logits * 1.01 if is_drafted and self._is_other(rows, places, behind) else logits


@pytest.mark.parametrize(
    ("is_other", "where"),
    [
        # Where answers differ already, as in these two, no size is tried.
        pytest.param(lambda rows, places, behind: True, "", id="all"),
        pytest.param(lambda rows, places, behind: rows == 1, "", id="one row"),
        pytest.param(
            lambda rows, places, behind: 2 < rows < 8, "rows: 4, places: 7, behind 40", id="rows"
        ),
        pytest.param(
            lambda rows, places, behind: rows > 4, "rows: 8, places: 7, behind 40", id="most rows"
        ),
        pytest.param(
            lambda rows, places, behind: rows == 4 and places < 7,
            "rows: 4, places: 3, behind 40",
            id="fewer places of more rows",
        ),
        *(
            pytest.param(
                lambda rows, places, behind, n=n: rows == 1 and places == n,
                "",
                id=f"{n} places",
            )
            for n in range(2, MOST_PLACES)
        ),
        pytest.param(
            lambda rows, places, behind: behind >= 4096, "rows: 1, places: 7, behind 4200", id="far"
        ),
        pytest.param(
            lambda rows, places, behind: behind >= 4096 and places < 4,
            "rows: 1, places: 3, behind 4200",
            id="fewer places far",
        ),
    ],
)
def test_drafts_are_not_verified_where_passes_of_some_size_round_otherwise(
    is_other: IsOther, where: str, llama_path: Path
) -> None:
    rules = check(RoundedOtherwise(load_model(llama_path)[0], is_other))
    assert (rules.batching, rules.slices_prompts, rules.verifies_drafts) == ("full", True, False)
    assert rules.undrafted.startswith("a pass over several places rounds otherwise")
    assert where in rules.undrafted


@pytest.mark.parametrize(("context_tokens", "longest"), [(None, 4200), (160, 153), (47, 40)])
def test_passes_are_tried_as_far_behind_as_the_context_goes(
    context_tokens: int | None, longest: int, llama_path: Path
) -> None:
    tried: set[int] = set()

    def is_other(rows: int, places: int, behind: int) -> bool:
        tried.add(behind + places)
        return False

    model = RoundedOtherwise(load_model(llama_path)[0], is_other)
    assert check(model, context_tokens).verifies_drafts
    assert max(tried) == longest + MOST_PLACES


@pytest.mark.parametrize("bits", [8, 4])
def test_passes_behind_quantised_keys_are_tried(bits: KVBits, llama_path: Path) -> None:
    model = RoundedOtherwise(
        load_model(llama_path)[0], lambda rows, places, behind: (rows, places) == (8, 2)
    )
    rules = check(model, kv_bits=bits)
    assert rules.undrafted.endswith("rows: 8, places: 2, behind 40 tokens")


def test_one_of_several_ranks_computes_no_pass_by_itself(
    llama_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "worker.selfcheck.draft_check")
    model = FailingModel(
        load_model(llama_path)[0], ValueError("broken"), lambda inputs: inputs.shape == (8, 7)
    )
    assert check(model, make_engine=OneOfSeveral).verifies_drafts
    assert "not compared on several ranks" in caplog.text


def test_a_model_that_fails_only_with_drafts_shares_the_rest(llama_path: Path) -> None:
    model = FailingModel(
        load_model(llama_path)[0], ValueError("broken"), lambda inputs: inputs.shape == (8, 7)
    )
    rules = check(model)
    assert (rules.batching, rules.reuses_prefixes) == ("full", True)
    assert rules.undrafted == (
        "the model fails: ValueError: broken; rows: 8, places: 7, behind 40 tokens"
    )
