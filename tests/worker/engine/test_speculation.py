"""Drafts change no token, no log-probability and no cache: they only save passes."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map
from mlx_lm.utils import load_model

from protocol.messages import Sampling
from tests.oracle import text_tokens
from tests.worker.engine.drafted_rows import (
    ROWS,
    SAMPLINGS,
    TOKENS,
    Answer,
    Shares,
    answer_all,
    assert_equal,
    join_and_leave,
    make_engine,
)
from worker.cache.prefix_cache import PrefixCache
from worker.drafts.drafter import Drafter
from worker.drafts.trial_rate import GOOD_RATE, TrialRate
from worker.engine.batches import row_positions
from worker.engine.batches.speculation.draft_model import DraftModel
from worker.engine.batches.speculation.pass_costs import PassCosts
from worker.engine.batches.speculation.retries import FIRST_WAIT_PASSES, RETRIED_PASSES
from worker.engine.batches.speculation.speculation import Speculation
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row

# More than any model here has: all tokens may be drafted.
VOCABULARY = 1 << 20


def make_draft(path: Path, *, is_random: bool = False) -> DraftModel:
    """The model of this folder as a draft model, or one with other weights."""
    model, _ = load_model(path)
    if is_random:
        key = mx.random.key(7)
        model.update(
            tree_map(lambda each: mx.random.normal(each.shape, key=key), model.parameters())
        )
    return DraftModel(model, VOCABULARY)


@pytest.fixture(scope="module")
def expected(llama_path: Path) -> dict[int, Answer]:
    """The answers of the rows without drafts."""
    return answer_all(make_engine(llama_path, speculates=False), llama_path, range(ROWS))


@pytest.mark.parametrize("seed", range(3))
def test_rows_with_drafts_join_and_leave_and_get_the_tokens_that_they_get_alone(
    llama_path: Path, expected: dict[int, Answer], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Holes are closed often.
    monkeypatch.setattr(row_positions, "MAX_WASTED_PLACES", 6 + seed)
    rng = random.Random(seed)
    engine = make_engine(llama_path, speculates=True, cache=PrefixCache(1 << 30))
    answers, removed = join_and_leave(engine, llama_path, expected, rng, Shares(predicted=1.0))
    for id in answers.keys() - removed:
        assert answers[id].reason == expected[id].reason
    kept = [answer for id, answer in answers.items() if id not in removed]
    assert sum(answer.passes for answer in kept) < sum(len(answer.tokens) for answer in kept)
    assert sum(answer.rejected for answer in answers.values()) > 0


@pytest.mark.parametrize(("seed", "is_random"), [(0, False), (1, True)])
def test_rows_with_drafts_of_a_model_get_the_tokens_that_they_get_alone(
    llama_path: Path,
    expected: dict[int, Answer],
    seed: int,
    is_random: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_positions, "MAX_WASTED_PLACES", 6 + seed)
    rng = random.Random(seed)
    draft = make_draft(llama_path, is_random=is_random)
    engine = make_engine(llama_path, speculates=True, cache=PrefixCache(1 << 30), draft=draft)
    join_and_leave(engine, llama_path, expected, rng, Shares(predicted=0.3), draft)
    assert len(draft) == 0
    assert engine.speculation is not None
    counts = {each.origin: each for each in engine.speculation.take_counts()}
    assert counts["model"].accepted + counts["model"].rejected > 0


def test_a_draft_model_that_is_the_model_itself_is_right_where_rows_are_greedy(
    llama_path: Path, expected: dict[int, Answer]
) -> None:
    greedy = [id for id in range(ROWS) if id % len(SAMPLINGS) == 0]
    draft = make_draft(llama_path)
    engine = make_engine(llama_path, speculates=True, draft=draft)
    answers = answer_all(engine, llama_path, greedy)
    for id in greedy:
        assert_equal(answers[id], expected[id])
        assert answers[id].passes < TOKENS / 3
    assert engine.speculation is not None
    [counts] = [e for e in engine.speculation.take_counts() if e.origin == "model"]
    assert counts.accepted > 10 * counts.rejected


def test_a_draft_model_that_is_never_right_is_asked_ever_more_rarely(llama_path: Path) -> None:
    rate = TrialRate()
    trials = []
    for number in range(2000):
        if rate.rate > GOOD_RATE:
            trials.append(number)
            rate.count(0, 1)
        else:
            rate.skip()
    gaps = [later - earlier for earlier, later in pairwise(trials)]
    assert len(trials) < 40
    assert max(gaps[-6:]) > 4 * max(gaps[:6])


class DearPlaces(PassCosts):
    """Costs by which no draft pays."""

    def relative(self, rows: int, places: int) -> float:
        return 1.0 if places == 1 else 100.0


def test_drafts_that_are_reckoned_too_dear_are_tried_ever_more_rarely(llama_path: Path) -> None:
    model, _ = load_model(llama_path)
    limits = PrefillLimits(max_tokens=32)
    engine = Engine(model, max_running=1, prefill=limits, speculation=Speculation(DearPlaces()))
    tokens = 20 * FIRST_WAIT_PASSES
    prompt = text_tokens(llama_path, "one two three")
    # One token can be drawn, so that the answer repeats itself.
    sampling = Sampling(seed=0, temperature=0.0, logit_bias={300: 1000.0})
    engine.insert(0, prompt, tokens, make_row(sampling, prompt=prompt, drafter=Drafter(prompt)))
    drafted, passes = [], 0
    while len(engine):
        passes += 1
        if any(token.drafted.accepted for token in engine.step()):
            drafted.append(passes)
    trials = [after for before, after in pairwise([0, *drafted]) if after > before + 1]
    gaps = [later - earlier for earlier, later in pairwise(trials)]
    assert len(drafted) <= RETRIED_PASSES * len(trials)
    assert len(trials) >= 3
    assert gaps == sorted(gaps)
    assert gaps[-1] > 1.5 * gaps[0]


class BrokenModel:
    """A draft model whose code fails in the second draft."""

    def __init__(self, inner: nn.Module) -> None:
        self.inner = inner
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, inputs: mx.array, cache: list[Any] | None = None) -> mx.array:
        self.calls += 1
        if self.calls > 12:
            raise TypeError("broken")
        logits: mx.array = self.inner(inputs, cache=cache)
        return logits


def test_rows_go_on_without_a_draft_model_that_fails(
    llama_path: Path, expected: dict[int, Answer]
) -> None:
    draft = DraftModel(BrokenModel(load_model(llama_path)[0]), VOCABULARY)
    engine = make_engine(llama_path, speculates=True, draft=draft)
    answers = answer_all(engine, llama_path, range(4))
    for id in range(4):
        assert_equal(answers[id], expected[id])


def test_the_caches_of_both_models_are_counted(llama_path: Path) -> None:
    alone = make_engine(llama_path, speculates=True)
    both = make_engine(llama_path, speculates=True, draft=make_draft(llama_path))
    assert both.kv_cost.batch_bytes(3, 1000) == 2 * alone.kv_cost.batch_bytes(3, 1000)
