"""A look-up finds what a naive search finds, whatever the tokens."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from worker.drafts.token_lookup import (
    MAX_COMPARED_TOKENS,
    MAX_PLACES,
    MAX_SINGLE_PLACES,
    PAIR_TOKENS,
    TokenLookup,
)

# Few different tokens, so that pairs come again; more of them, so that some are seldom.
TOKENS = st.one_of(
    st.lists(st.integers(0, 4), max_size=60), st.lists(st.integers(0, 30), max_size=60)
)


def search(text: Sequence[int], history: Sequence[int]) -> tuple[int, int]:
    """The place and its length that a search of the whole text finds; (0, 0) for none."""
    if len(history) < PAIR_TOKENS:
        return 0, 0
    pair = list(history[-PAIR_TOKENS:])
    places = [n for n in range(PAIR_TOKENS, len(text)) if list(text[n - PAIR_TOKENS : n]) == pair]
    best = (0, 0)
    for place in list(reversed(places))[:MAX_PLACES]:
        length = common_suffix(text[:place], history)
        if length > best[1]:
            best = place, length
    singles = [n for n in range(PAIR_TOKENS, len(text)) if text[n - 1] == history[-1]]
    if not places and 0 < len(singles) <= MAX_SINGLE_PLACES:
        best = singles[-1], 1
    return best


def common_suffix(one: Sequence[int], other: Sequence[int]) -> int:
    length = 0
    while length < min(len(one), len(other), MAX_COMPARED_TOKENS) and (
        one[-1 - length] == other[-1 - length]
    ):
        length += 1
    return length


class NaiveLookup:
    """The same by searching."""

    def __init__(self, text: list[int], history: list[int], *, is_beginning: bool = False) -> None:
        self.text, self.history = text, history
        begins = is_beginning and text
        self.place, self.matched = (0, PAIR_TOKENS) if begins else search(text, history)

    def follow(self, token: int) -> None:
        if self.matched and self.text[self.place] == token and self.place + 1 < len(self.text):
            self.place, self.matched = self.place + 1, self.matched + 1
        else:
            self.place, self.matched = search(self.text, self.history)

    def propose(self, count: int) -> list[int]:
        if not self.matched:
            return []
        source = list(self.text)
        proposed: list[int] = []
        for place in range(self.place, self.place + count):
            if place == len(source) and self.text is not self.history:
                break
            if place == len(source):
                source.append(proposed[place - len(self.text)])
            proposed.append(source[place])
        return proposed


@given(TOKENS, TOKENS, st.integers(1, 8))
def test_the_text_so_far_is_looked_up_as_by_searching(
    prompt: list[int], answer: list[int], count: int
) -> None:
    history = list(prompt)
    ours, naive = TokenLookup(history, history), NaiveLookup(history, history)
    for token in answer:
        history.append(token)
        ours.follow(token)
        naive.follow(token)
        assert ours.matched == naive.matched
        assert ours.propose(count) == naive.propose(count)


@given(TOKENS, TOKENS, TOKENS, st.integers(1, 8))
def test_a_prediction_is_looked_up_as_by_searching(
    prompt: list[int], prediction: list[int], answer: list[int], count: int
) -> None:
    history = list(prompt)
    ours = TokenLookup(prediction, history, is_beginning=True)
    naive = NaiveLookup(prediction, history, is_beginning=True)
    assert ours.propose(count) == prediction[:count]
    for token in answer:
        history.append(token)
        ours.follow(token)
        naive.follow(token)
        assert ours.matched == naive.matched
        assert ours.propose(count) == naive.propose(count)


def test_of_two_places_the_one_with_the_longer_run_before_it_is_taken() -> None:
    history = [1, 2, 3, 4, 9, 3, 4, 7, 1, 2, 3]
    lookup = TokenLookup(history, history)
    history.append(4)
    lookup.follow(4)
    assert lookup.propose(3) == [9, 3, 4]


def test_a_text_that_repeats_itself_is_drafted_beyond_its_end() -> None:
    history = [5, 6, 7, 5, 6, 7]
    assert TokenLookup(history, history).propose(7) == [5, 6, 7, 5, 6, 7, 5]


def test_an_answer_that_follows_its_prediction_is_drafted_to_the_end() -> None:
    history, prediction = [1], [5, 6, 7]
    lookup = TokenLookup(prediction, history, is_beginning=True)
    drafts = []
    for token in prediction:
        drafts.append(lookup.propose(2))
        history.append(token)
        lookup.follow(token)
    assert [*drafts, lookup.propose(2)] == [[5, 6], [6, 7], [7], []]


def test_behind_a_token_that_the_text_has_seldom_its_next_ones_are_drafted() -> None:
    history = [1, 2, 3, 4, 9]
    lookup = TokenLookup(history, history)
    history.append(2)
    lookup.follow(2)
    assert lookup.propose(2) == [3, 4]


def test_behind_a_token_that_the_text_has_often_nothing_is_drafted() -> None:
    history = [0, 2, 5, 2, 6, 2, 7, 2, 8, 9]
    lookup = TokenLookup(history, history)
    history.append(2)
    lookup.follow(2)
    assert lookup.propose(2) == []
