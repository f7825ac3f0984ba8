"""Rows that share no batch, or only decode, draw what each draws with mlx-lm alone."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import make_prompt_cache

from protocol.batching import Batching, BatchRules
from protocol.messages import Sampling
from tests.models import unbatched
from tests.models.architectures.making import build
from tests.models.architectures.table import config_of
from worker.cache.prefix_cache import PrefixCache
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row
from worker.engine.token_logprobs import Score

GREEDY = Sampling(seed=0, temperature=0.0)
TOKENS = 12
CACHE_BYTES = 1 << 28
ROUNDING = 1e-3
# One of each kind; the others take as long again.
RECURRENT = [
    "mamba",
    "jamba",
    *(
        pytest.param(each, marks=pytest.mark.long)
        for each in ("nemotron_h", "olmo_hybrid", "recurrent_gemma", "rwkv7")
    ),
]
WITHOUT_MERGE = ["llama4", "gpt_bigcode", pytest.param("deepseek_v41", marks=pytest.mark.long)]
PROMPTS = [
    [(7 * i + 3 * row) % 250 + 3 for i in range(length)]
    for row, length in enumerate((5, 9, 40, 120))
]


def make_engine(model: nn.Module, batching: Batching, cache: PrefixCache | None = None) -> Engine:
    return Engine(
        model,
        max_running=8,
        prefill=PrefillLimits(max_tokens=32),
        prompt_cache=cache,
        rules=BatchRules(batching=batching),
    )


def expected_tokens(model: nn.Module, prompt: list[int]) -> list[int]:
    """The greedy tokens of a plain loop over mlx-lm's model."""
    cache = make_prompt_cache(model)
    tokens: list[int] = []
    inputs = mx.array(prompt)[None]
    for _ in range(TOKENS):
        drawn = mx.argmax(model(inputs, cache=cache)[:, -1], axis=-1)
        tokens += drawn.tolist()  # type: ignore[arg-type]
        inputs = drawn[None]
    return tokens


def draw(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    """The tokens of these prompts at once."""
    tokens: list[list[int]] = [[] for _ in prompts]
    for id, prompt in enumerate(prompts):
        engine.insert(id, prompt, TOKENS, make_row(GREEDY))
    while len(engine):
        for token in engine.step():
            tokens[token.id].append(token.token)
        assert engine.failed == []
    return tokens


@pytest.mark.parametrize("batching", ["decode", "none"])
@pytest.mark.parametrize("model_type", RECURRENT)
def test_recurrent_models_draw_what_each_row_draws_alone(
    model_type: str, batching: Batching
) -> None:
    model = unbatched.make_model(model_type)
    expected = [expected_tokens(model, prompt) for prompt in PROMPTS]
    assert draw(make_engine(model, batching), PROMPTS) == expected


@pytest.mark.parametrize("model_type", WITHOUT_MERGE)
def test_models_whose_caches_cannot_be_merged_are_served_row_by_row(model_type: str) -> None:
    model = unbatched.make_model(model_type)
    expected = [expected_tokens(model, prompt) for prompt in PROMPTS]
    assert draw(make_engine(model, "none"), PROMPTS) == expected


@pytest.mark.parametrize("model_type", ["mamba", "llama4"])
def test_rows_alone_all_go_on_with_each_step_and_join_and_leave(model_type: str) -> None:
    model = unbatched.make_model(model_type)
    engine = make_engine(model, "none")
    for id, prompt in enumerate(PROMPTS):
        engine.insert(id, prompt, 100, make_row(GREEDY))
    while len(engine.step()) < len(PROMPTS):
        pass
    assert {token.id for token in engine.step()} == {0, 1, 2, 3}
    engine.remove([1])
    assert {token.id for token in engine.step()} == {0, 2, 3}
    engine.insert(7, PROMPTS[1], TOKENS, make_row(GREEDY))
    joined: list[int] = []
    while len(joined) < TOKENS:
        joined += [token.token for token in engine.step() if token.id == 7]
    assert joined == expected_tokens(model, PROMPTS[1])


@pytest.mark.parametrize("model_type", ["mamba", "llama4"])
def test_rows_alone_with_one_prompt_share_its_prefill(model_type: str) -> None:
    model = unbatched.make_model(model_type)
    engine = make_engine(model, "none")
    assert draw(engine, [PROMPTS[3]] * 3) == [expected_tokens(model, PROMPTS[3])] * 3


@pytest.mark.parametrize("batching", ["decode", "none"])
@pytest.mark.parametrize(
    "model_type", ["mamba", "jamba", pytest.param("nemotron_h", marks=pytest.mark.long)]
)
def test_a_prompt_that_continues_a_cached_one_draws_what_it_draws_alone(
    model_type: str, batching: Batching
) -> None:
    model = unbatched.make_model(model_type)
    cache = PrefixCache(CACHE_BYTES)
    engine = make_engine(model, batching, cache)
    first = draw(engine, PROMPTS)
    longer = [prompt + answer for prompt, answer in zip(PROMPTS, first, strict=True)]
    longer = [[*prompt, 17, 18, 19] for prompt in longer]
    cached = [engine.insert(id, prompt, 1, make_row(GREEDY)) for id, prompt in enumerate(longer)]
    engine.remove(range(4))
    assert min(cached) > 0
    assert draw(engine, longer) == [expected_tokens(model, prompt) for prompt in longer]


@pytest.mark.parametrize("batching", ["full", "decode", "none"])
def test_where_slices_differ_a_resumed_answer_is_computed_as_it_was_at_first(
    batching: Batching,
) -> None:
    # Its mask is wider than its cache: several tokens in one pass differ from one by one.
    model = build(config_of("plamo3"))
    prompts = PROMPTS[2:]

    def score(position: int) -> list[list[Score]]:
        """The scores behind `position` of these answers, which are resumed there."""
        engine = make_engine(model, batching)
        engine.rules = BatchRules(batching, reuses_prefixes=False, slices_prompts=False)
        for id, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            row = make_row(GREEDY, resume=answer[:position], logprobs=1)
            engine.insert(id, prompt + answer[:position], TOKENS - position, row)
        scores: list[list[Score]] = [[] for _ in prompts]
        while len(engine):
            for token in engine.step():
                assert token.score is not None
                scores[token.id].append(token.score)
        return scores

    answers: list[list[int]] = [[] for _ in prompts]
    whole = score(0)
    answers = [[each.token for each in row] for row in whole]
    for row, resumed in zip(whole, score(TOKENS // 2), strict=True):
        assert [each.token for each in resumed] == [each.token for each in row[TOKENS // 2 :]]
        pairs = zip(row[TOKENS // 2 :], resumed, strict=True)
        assert max(abs(one.logprob - other.logprob) for one, other in pairs) < ROUNDING


@pytest.mark.long
def test_caches_that_cannot_be_copied_are_not_kept_and_the_answers_stay_right() -> None:
    model = unbatched.make_model("deepseek_v41")
    cache = PrefixCache(CACHE_BYTES)
    engine = make_engine(model, "none", cache)
    expected = [expected_tokens(model, prompt) for prompt in PROMPTS]
    assert draw(engine, PROMPTS) == expected
    assert draw(engine, PROMPTS) == expected
    assert cache.nbytes == 0
    assert engine.cache_fault is not None
    assert not engine.rules.reuses_prefixes


def test_nothing_is_cached_or_reused_where_the_rules_forbid_it() -> None:
    model = unbatched.make_model("mamba")
    cache = PrefixCache(CACHE_BYTES)
    engine = make_engine(model, "decode", cache)
    draw(engine, PROMPTS[:1])
    assert cache.nbytes > 0
    engine.rules = BatchRules(reuses_prefixes=False)
    held = cache.nbytes
    assert engine.insert(0, [*PROMPTS[0], 1, 2], TOKENS, make_row(GREEDY)) == 0
    while len(engine):
        engine.step()
    assert cache.nbytes == held


class WholeOnly:
    """A model whose output for a prompt of several tokens ignores what came before it."""

    def __init__(self) -> None:
        self.inner = unbatched.make_model("jamba")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, inputs: mx.array, cache: list[object]) -> mx.array:
        if inputs.shape[1] > 1:
            cache[:] = self.inner.make_cache()
        logits: mx.array = self.inner(inputs, cache=cache)
        return logits


def test_a_prompt_that_may_not_be_sliced_is_computed_in_one_slice() -> None:
    model = WholeOnly()
    expected = [expected_tokens(model.inner, prompt) for prompt in PROMPTS]
    rules = BatchRules(batching="none", reuses_prefixes=False)
    limits = PrefillLimits(max_tokens=32)
    sliced = Engine(model, max_running=8, prefill=limits, rules=rules)
    assert draw(sliced, PROMPTS)[3] != expected[3]
    whole = BatchRules(batching="none", reuses_prefixes=False, slices_prompts=False)
    engine = Engine(model, max_running=8, prefill=limits, rules=whole)
    for id, prompt in enumerate(PROMPTS):
        engine.insert(id, prompt, TOKENS, make_row(GREEDY), [7])
    tokens: list[list[int]] = [[] for _ in PROMPTS]
    while len(engine):
        for token in engine.step():
            tokens[token.id].append(token.token)
    assert tokens == expected


def test_a_prompt_that_may_not_be_sliced_is_bounded_by_the_memory_of_its_slice() -> None:
    model = unbatched.make_model("gpt_bigcode")
    limits = PrefillLimits(max_tokens=32, reserve_bytes=1 << 16)
    engine = Engine(model, max_running=8, prefill=limits)
    assert engine.longest_prompt is None
    engine.rules = BatchRules(slices_prompts=False)
    # 4 heads x tokens x tokens x 4 bytes.
    assert engine.longest_prompt == 64
