"""The size of a slice follows the measured speeds, its memory, and the prompts that wait."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.engine.attention_cost import AttentionCost
from worker.engine.prefill_budget import (
    FIRST_TOKENS,
    MIN_PREFILL_S,
    MIN_TOKENS,
    PREFILL_PER_DECODE,
    PrefillBudget,
    PrefillLimits,
    Prompt,
    bound_slice_s,
)
from worker.engine.rows.slice_floor import LONGEST_S

MAX_TOKENS, MAX_ROWS, SLICE_S = 512, 8, 1.0
LONG = Prompt(0, 10_000)


def make_budget(
    *, token_s: float, decode_s: float = 0.0, context: int = 0, limits: PrefillLimits | None = None
) -> PrefillBudget:
    """A budget that has measured these speeds."""
    budget = PrefillBudget(limits or PrefillLimits(MAX_TOKENS, MAX_ROWS, SLICE_S))
    if decode_s:
        budget.record_step(decode_s, 4, 0)
    for _ in range(2):
        budget.record_step(100 * token_s, 0, 100, context)
    return budget


def test_the_first_slice_is_short_and_has_one_row() -> None:
    for decoding_rows in (0, 4):
        plan = PrefillBudget(PrefillLimits(MAX_TOKENS)).plan(decoding_rows, [LONG] * 8)
        assert (plan.rows, plan.tokens, plan.seconds) == (1, FIRST_TOKENS, 0.0)


def test_a_fast_device_computes_the_most_tokens_of_the_most_rows() -> None:
    plan = make_budget(token_s=1e-5).plan(0, [LONG] * 20)
    assert (plan.rows, plan.tokens) == (MAX_ROWS, MAX_TOKENS)


@pytest.mark.parametrize(
    ("token_s", "rows", "tokens"),
    [
        (0.0004, 4, 512),
        (0.0009, 2, 512),
        (0.0015, 1, 512),
        (0.004, 1, 250),
        (0.025, 1, 40),
        (0.4, 1, 2),
    ],
)
def test_rows_shrink_before_tokens_do(token_s: float, rows: int, tokens: int) -> None:
    plan = make_budget(token_s=token_s).plan(0, [LONG] * 8)
    assert plan.rows == rows
    assert plan.tokens == pytest.approx(tokens, abs=1)


@given(
    st.floats(1e-6, 0.9),
    st.lists(
        st.builds(Prompt, st.integers(0, 3000), st.integers(1, 9000)), min_size=1, max_size=20
    ),
    st.floats(0.0, 0.5),
)
def test_no_slice_is_expected_to_exceed_its_time(
    token_s: float, prompts: list[Prompt], decode_s: float
) -> None:
    budget = make_budget(token_s=token_s, decode_s=decode_s, context=3000)
    alone, beside = budget.plan(0, prompts), budget.plan(4, prompts)
    for plan in (alone, beside):
        assert 1 <= plan.rows <= min(MAX_ROWS, len(prompts))
        assert 1 <= plan.tokens <= MAX_TOKENS
        # One token is always computed.
        assert plan.seconds <= max(SLICE_S, token_s) * 1.001
    limit_s = bound_slice_s(decode_s)
    assert beside.rows * beside.tokens <= max(limit_s / token_s * 1.001, MIN_TOKENS)


@given(st.floats(0.0, 0.5))
def test_a_slice_and_the_decode_step_beside_it_stay_short(decode_s: float) -> None:
    slice_s = bound_slice_s(decode_s)
    assert slice_s >= max(decode_s, MIN_PREFILL_S)
    assert slice_s <= max(PREFILL_PER_DECODE * decode_s, MIN_PREFILL_S)
    # Two steps of a tenth of a second are a gap below 250 ms.
    assert decode_s > LONGEST_S or decode_s + slice_s <= 2 * LONGEST_S


def test_short_prompts_share_the_time_of_a_slice() -> None:
    budget = make_budget(token_s=0.0002, decode_s=0.02)
    plan = budget.plan(4, [Prompt(0, 30)] * 8)
    assert (plan.rows, plan.tokens) == (6, 30)


def test_a_slice_far_behind_all_measured_ones_is_shorter() -> None:
    budget = make_budget(token_s=0.0015)
    assert budget.plan(0, [Prompt(100_000, 5000)]).tokens < MAX_TOKENS / 10
    assert budget.plan(0, [Prompt(100, 5000)]).tokens == MAX_TOKENS


def test_the_second_measurement_replaces_the_first() -> None:
    budget = PrefillBudget(PrefillLimits(MAX_TOKENS))
    budget.record_step(2.0, 0, 32)
    assert budget.plan(0, [LONG]).tokens == 16
    budget.record_step(0.016, 0, 16)
    assert budget.plan(0, [LONG]).tokens == MAX_TOKENS


def test_a_slice_that_took_far_too_long_shortens_the_next_at_once() -> None:
    budget = make_budget(token_s=0.0001)
    budget.record_step(5.12, 0, 512)
    assert budget.plan(0, [LONG]).tokens == 100


@example(reserve=1, heads=1, size=2, window=0, prompts=[Prompt(0, 1), Prompt(0, 1)])
@given(
    st.integers(1, 10**10),
    st.integers(1, 64),
    st.sampled_from([2, 4]),
    st.integers(0, 4096),
    st.lists(
        st.builds(Prompt, st.integers(0, 130_000), st.integers(1, 9000)), min_size=1, max_size=9
    ),
)
def test_the_scores_of_a_slice_fit_the_reserve(
    reserve: int, heads: int, size: int, window: int, prompts: list[Prompt]
) -> None:
    attention = AttentionCost(heads * size, window)
    budget = PrefillBudget(PrefillLimits(MAX_TOKENS, MAX_ROWS, SLICE_S, reserve), attention)
    for _ in range(2):
        budget.record_step(0.001, 0, 1000)
    plan = budget.plan(0, prompts)
    context = max(prompt.computed for prompt in prompts[: plan.rows])
    fits = attention.slice_bytes(plan.rows, plan.tokens, context) <= reserve
    # One token is always computed.
    assert fits or (plan.rows, plan.tokens) == (1, 1)


def test_for_memory_too_rows_shrink_before_tokens_do() -> None:
    # 24 heads at 32k: 512 tokens of one row need 0.8 GB, those of 8 rows 6 GB.
    attention = AttentionCost(24 * 2)
    budget = PrefillBudget(PrefillLimits(MAX_TOKENS, MAX_ROWS, SLICE_S, 3 << 29), attention)
    for _ in range(2):
        budget.record_step(0.001, 0, 1000, 32_768)
    plan = budget.plan(0, [Prompt(32_768, 5000)] * 8)
    assert (plan.rows, plan.tokens) == (1, MAX_TOKENS)
    plan = budget.plan(0, [Prompt(131_072, 5000)] * 8)
    assert plan.rows == 1
    assert 200 < plan.tokens < MAX_TOKENS


@given(st.floats(1e-6, 0.01), st.floats(0.0, 0.5), st.floats(0.001, 0.5))
def test_a_slice_is_short_beside_the_rows_of_other_models_too(
    token_s: float, decode_s: float, others_decode_s: float
) -> None:
    budget = make_budget(token_s=token_s, decode_s=decode_s)
    budget.others_decode_s = others_decode_s
    for decoding_rows, own_s in ((0, 0.0), (4, decode_s)):
        plan = budget.plan(decoding_rows, [LONG] * 8)
        limit_s = bound_slice_s(own_s + others_decode_s)
        assert plan.rows * plan.tokens <= max(limit_s / token_s * 1.001, MIN_TOKENS)
