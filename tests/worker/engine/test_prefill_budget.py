"""Slices of prompts are as long as those who decode can bear."""

from __future__ import annotations

from worker.engine.prefill_budget import (
    LEAST_TOKENS,
    SHORTEST_SLICE_S,
    SLICE_PER_DECODE,
    PrefillBudget,
)

MOST = 512


def paced(*, decode_s: float, token_s: float) -> PrefillBudget:
    pace = PrefillBudget(MOST)
    pace.note(decode_s, 4, 0)
    pace.note(decode_s + 100 * token_s, 4, 100)
    return pace


def test_while_nobody_decodes_a_slice_is_as_long_as_it_may_be() -> None:
    assert paced(decode_s=0.01, token_s=0.001).slice_tokens(0, 1) == MOST


def test_before_a_prompt_was_measured_a_slice_is_as_long_as_it_may_be() -> None:
    assert PrefillBudget(MOST).slice_tokens(4, 1) == MOST


def test_beside_decoding_a_slice_takes_as_much_longer_as_is_allowed() -> None:
    tokens = paced(decode_s=0.02, token_s=0.0002).slice_tokens(4, 1)
    assert tokens == int(SLICE_PER_DECODE * 0.02 / 0.0002)


def test_a_very_quick_model_is_given_the_shortest_slice() -> None:
    tokens = paced(decode_s=0.001, token_s=0.0001).slice_tokens(4, 1)
    assert tokens in (int(SHORTEST_SLICE_S / 0.0001), int(SHORTEST_SLICE_S / 0.0001) - 1)


def test_several_prompts_share_a_slice() -> None:
    pace = paced(decode_s=0.02, token_s=0.0002)
    assert pace.slice_tokens(4, 4) == pace.slice_tokens(4, 1) // 4


def test_a_slice_is_neither_empty_nor_longer_than_it_may_be() -> None:
    assert paced(decode_s=0.02, token_s=1.0).slice_tokens(4, 8) == LEAST_TOKENS
    assert paced(decode_s=0.02, token_s=1e-9).slice_tokens(4, 1) == MOST


def test_the_pace_follows_a_prompt_that_grows_slower() -> None:
    pace = paced(decode_s=0.02, token_s=0.0002)
    before = pace.slice_tokens(4, 1)
    for _ in range(20):
        pace.note(0.02 + 100 * 0.0004, 4, 100)
    assert pace.slice_tokens(4, 1) < 0.6 * before
