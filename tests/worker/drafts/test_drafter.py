"""Drafts come from what was right before, and end where nothing is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.drafts.drafter import MAX_FOLLOWED_TOKENS, Drafter, HitRates

COUNT = 4


def learn(drafter: Drafter, tokens: list[int], start: int = 0) -> None:
    for index, token in enumerate(tokens, start):
        drafter.learn(index, token)


def test_a_prediction_is_drafted_before_the_first_token() -> None:
    assert list(Drafter([1, 2, 3], prediction=[7, 8]).draft(COUNT).tokens) == [7, 8]


def test_the_text_is_drafted_where_the_answer_leaves_its_prediction() -> None:
    drafter = Drafter([1, 2, 3, 4, 5, 6], prediction=[7, 8, 9])
    learn(drafter, [2, 3])
    assert list(drafter.draft(2).tokens) == [4, 5]


def test_a_prediction_is_found_again_behind_an_edit() -> None:
    drafter = Drafter([0], prediction=[10, 11, 12, 13, 14, 15, 16])
    learn(drafter, [10, 11, 99, 13, 14])
    assert list(drafter.draft(COUNT).tokens) == [15, 16]


def test_a_new_text_has_no_draft() -> None:
    drafter = Drafter([1, 2, 3, 4])
    learn(drafter, [5, 6, 7, 8])
    assert not drafter.draft(COUNT).tokens


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30))
def test_an_answer_that_is_resumed_is_drafted_as_if_it_had_gone_on(
    prompt: list[int], answer: list[int]
) -> None:
    whole = Drafter(prompt, prediction=[1, 2, 3])
    learn(whole, answer)
    resumed = Drafter(prompt, answer, prediction=[1, 2, 3])
    assert resumed.draft(COUNT) == whole.draft(COUNT)
    assert resumed.known_tokens == whole.known_tokens


@given(st.lists(st.integers(0, 99), min_size=2, max_size=30, unique=True), st.integers(0, 9))
def test_a_repeated_text_is_drafted_also_after_a_long_pause(text: list[int], more: int) -> None:
    """Behind more tokens than are followed one by one."""
    for prediction in ([], text):
        drafter = Drafter([*text, 100], prediction=prediction)
        drafter.draft(COUNT)
        answer = [*range(200, 200 + MAX_FOLLOWED_TOKENS + more), *text[:2]]
        learn(drafter, answer)
        assert list(drafter.draft(COUNT).tokens[: len(text) - 2]) == text[2 : 2 + COUNT]


def test_a_token_that_is_known_or_comes_too_early_is_not_taken() -> None:
    drafter = Drafter([1, 2, 3, 1], prediction=[7, 8, 9])
    learn(drafter, [7, 8])
    drafter.learn(0, 5)
    drafter.learn(5, 5)
    assert (drafter.known_tokens, list(drafter.draft(1).tokens)) == (2, [9])


def test_the_rates_follow_what_was_right() -> None:
    rates = HitRates([0.0, 0.5, 0.5])
    for _ in range(50):
        rates.count(1, right=True)
        rates.count(2, right=False)
    assert rates.rate(1) > 0.95
    assert rates.rate(2) < 0.05
