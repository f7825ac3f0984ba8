"""The chunk size follows the measured speeds of decoding and prefill."""

from __future__ import annotations

from worker.engine.prefill_budget import (
    MIN_CHUNK_TOKENS,
    MIN_PREFILL_S,
    PREFILL_PER_DECODE,
    PrefillBudget,
)

MAX_TOKENS = 512


def make_budget(*, decode_s: float, token_s: float) -> PrefillBudget:
    """A budget that has measured these speeds."""
    budget = PrefillBudget(MAX_TOKENS)
    budget.record_step(decode_s, 4, 0)
    budget.record_step(decode_s + 100 * token_s, 4, 100)
    return budget


def test_while_no_row_decodes_a_chunk_has_the_largest_size() -> None:
    assert make_budget(decode_s=0.01, token_s=0.001).chunk_tokens(0, 1) == MAX_TOKENS


def test_before_a_prefill_is_measured_a_chunk_has_the_largest_size() -> None:
    assert PrefillBudget(MAX_TOKENS).chunk_tokens(4, 1) == MAX_TOKENS


def test_beside_decoding_a_chunk_takes_a_fixed_multiple_of_a_decode_step() -> None:
    tokens = make_budget(decode_s=0.02, token_s=0.0002).chunk_tokens(4, 1)
    assert tokens == int(PREFILL_PER_DECODE * 0.02 / 0.0002)


def test_beside_a_very_fast_decode_step_a_chunk_takes_the_shortest_time() -> None:
    tokens = make_budget(decode_s=0.001, token_s=0.0001).chunk_tokens(4, 1)
    assert tokens in (int(MIN_PREFILL_S / 0.0001), int(MIN_PREFILL_S / 0.0001) - 1)


def test_several_prompts_share_the_budget_of_a_step() -> None:
    budget = make_budget(decode_s=0.02, token_s=0.0002)
    assert budget.chunk_tokens(4, 4) == budget.chunk_tokens(4, 1) // 4


def test_a_chunk_is_neither_smaller_nor_larger_than_its_bounds() -> None:
    assert make_budget(decode_s=0.02, token_s=1.0).chunk_tokens(4, 8) == MIN_CHUNK_TOKENS
    assert make_budget(decode_s=0.02, token_s=1e-9).chunk_tokens(4, 1) == MAX_TOKENS


def test_chunks_get_smaller_when_prefill_gets_slower() -> None:
    budget = make_budget(decode_s=0.02, token_s=0.0002)
    before = budget.chunk_tokens(4, 1)
    for _ in range(20):
        budget.record_step(0.02 + 100 * 0.0004, 4, 100)
    assert budget.chunk_tokens(4, 1) < 0.6 * before
