"""A text that the answer repeats with edits is drafted on behind them, and with them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.drafts.edit_lookup import MAX_EDIT_TOKENS, EditLookup
from worker.drafts.token_lookup import TokenLookup

TOKENS = st.lists(st.integers(0, 4), max_size=60)
EDIT_SIDE = st.integers(1, MAX_EDIT_TOKENS)


def follow(lookup: EditLookup, history: list[int], tokens: list[int]) -> None:
    for token in tokens:
        history.append(token)
        lookup.follow(token)


def predict(text: list[int]) -> tuple[EditLookup, list[int]]:
    history = [-1]
    return EditLookup(TokenLookup(text, history, is_beginning=True)), history


@given(TOKENS, st.lists(st.integers(0, 4), max_size=90), st.integers(1, 8))
def test_any_answer_is_followed_and_no_more_is_proposed_than_asked_for(
    text: list[int], answer: list[int], count: int
) -> None:
    lookup, history = predict(text)
    for token in answer:
        follow(lookup, history, [token])
        proposed = lookup.propose(count)
        assert len(proposed) <= count
        assert bool(proposed) == (lookup.matched > 0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), TOKENS, st.integers(1, 8))
def test_a_text_that_grows_is_proposed_beyond_its_end(
    prompt: list[int], answer: list[int], count: int
) -> None:
    history = list(prompt)
    lookup = EditLookup(TokenLookup(history, history))
    for token in answer:
        follow(lookup, history, [token])
        assert len(lookup.propose(count)) in (0, count)


@given(TOKENS, TOKENS)
def test_a_text_that_is_repeated_as_it_is_has_the_drafts_of_a_look_up(
    prompt: list[int], text: list[int]
) -> None:
    history = list(prompt)
    ours = EditLookup(TokenLookup(text, history, is_beginning=True))
    plain = TokenLookup(text, history, is_beginning=True)
    for token in text:
        history.append(token)
        ours.follow(token)
        plain.follow(token)
        assert (ours.matched, ours.propose(4)) == (plain.matched, plain.propose(4))


def test_behind_a_replaced_token_the_text_goes_on_at_once() -> None:
    lookup, history = predict([10, 11, 12, 13, 14, 15])
    follow(lookup, history, [10, 11, 99])
    assert lookup.propose(8) == [13, 14, 15]


@given(EDIT_SIDE, EDIT_SIDE, st.integers(1, 5), st.integers(1, 5))
def test_what_was_replaced_once_is_replaced_again(
    old_size: int, new_size: int, between: int, behind: int
) -> None:
    old, new = list(range(100, 100 + old_size)), list(range(200, 200 + new_size))
    # Two tokens behind the first edit show that it has ended.
    parts = [[1, 2], [3, 4, *range(10, 10 + between)], [*range(20, 20 + behind)]]
    text = [*parts[0], *old, *parts[1], *old, *parts[2]]
    answer = [*parts[0], *new, *parts[1], *new, *parts[2]]
    lookup, history = predict(text)
    known = len(parts[0]) + new_size + 2
    follow(lookup, history, answer[:known])
    for index in range(known, len(answer)):
        assert lookup.propose(len(answer)) == answer[index:]
        follow(lookup, history, [answer[index]])


def test_an_edit_that_is_not_made_again_is_not_proposed_again() -> None:
    text = [1, 2, 50, 3, 4, 50, 5, 6, 50, 7]
    lookup, history = predict(text)
    follow(lookup, history, [1, 2, 99, 3, 4])
    assert lookup.propose(2) == [99, 5]
    follow(lookup, history, [50])
    assert lookup.propose(4) == [5, 6, 50, 7]


def test_a_text_is_found_behind_tokens_that_are_left_out_or_added() -> None:
    lookup, history = predict([1, 2, 3, 4, 5, 6, 7, 8, 9])
    follow(lookup, history, [1, 2, 4, 5])
    assert lookup.propose(2) == [6, 7]
    follow(lookup, history, [6, 98, 99, 7, 8])
    assert lookup.propose(2) == [9]


def test_of_equal_places_the_one_behind_the_edit_is_taken() -> None:
    # 3, 4 comes twice; the later place is further on.
    lookup, history = predict([1, 2, 50, 51, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 3, 4, 14])
    follow(lookup, history, [1, 2, 98, 97, 96, 3, 4])
    assert lookup.propose(2) == [5, 6]
