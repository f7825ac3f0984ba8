"""The stored answers are those of the shipped weights, and a difference is judged by them."""

from __future__ import annotations

import math

import pytest

from worker.selftest.answers import Answer, first_difference, read_stored
from worker.selftest.make_answers import CANDIDATES, TOKENS, make_answer
from worker.selftest.sections.correctness import judge
from worker.selftest.subject import Subject

ANSWER = Answer("greedy", [1], [5, 6], [[(5, 2.0), (7, 1.96)], [(6, 2.0), (8, 1.9)]])


def test_there_are_answers_of_all_kinds_with_candidates() -> None:
    answers = read_stored()
    assert {answer.kind for answer in answers} == {"greedy", "seeded", "penalised", "masked"}
    for answer in answers:
        assert len(answer.tokens) == len(answer.candidates) == TOKENS
        assert all(1 <= len(each) <= CANDIDATES for each in answer.candidates)
        assert [each[0][0] for each in answer.candidates] == answer.tokens


@pytest.mark.parametrize("kind", ["greedy", "seeded", "penalised", "masked"])
def test_the_stored_answers_are_those_of_the_shipped_weights(kind: str, subject: Subject) -> None:
    stored = next(answer for answer in read_stored() if answer.kind == kind)
    made = make_answer(subject, stored.kind, stored.prompt)
    assert made.tokens == stored.tokens
    for one, other in zip(made.candidates, stored.candidates, strict=True):
        assert [score for _, score in one] == pytest.approx([s for _, s in other], abs=1e-2)


@pytest.mark.parametrize(
    ("tokens", "verdict"),
    [
        ([5, 6], "ok"),
        ([7, 6], "near tie"),
        ([5, 8], "failed"),
        ([9, 6], "failed"),
        ([5], "failed"),
    ],
)
def test_a_difference_is_a_near_tie_only_by_the_expected_values(
    tokens: list[int], verdict: str
) -> None:
    assert judge([first_difference(ANSWER, tokens)], 0.05)[0] == verdict


def test_one_failure_among_near_ties_is_a_failure() -> None:
    tokens = [[7, 6], [5, 6], [5, 8]]
    verdict, note = judge([first_difference(ANSWER, each) for each in tokens], 0.05)
    assert verdict == "failed"
    assert note == "2 of 3 differ, first at token 1, gap 0.1"


def test_a_resumed_answer_is_compared_from_its_resume_on() -> None:
    assert first_difference(ANSWER, [6], 1) is None
    assert first_difference(ANSWER, [7], 1) == (1, math.inf)
