"""Restore points: inside the prompt, never crowded, and where the next turn will part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.cache.known_prompts import MAX_PROMPTS, KnownPrompts
from worker.cache.restore_points import (
    GUESSED_TAILS,
    MIN_GAP_TOKENS,
    SLACK_TOKENS,
    plan_restore_points,
)

prompts = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 900), st.integers(0, 200)), min_size=1, max_size=12
)


def plan(
    known: KnownPrompts, prompt: Sequence[int], cached: int, breakpoints: Sequence[int]
) -> list[int]:
    return plan_restore_points(known.note(prompt), cached, breakpoints)


@given(prompts)
def test_points_are_behind_what_is_cached_and_inside_the_prompt(
    drawn: list[tuple[int, int, int]],
) -> None:
    points = KnownPrompts()
    for start, length, cached in drawn:
        prompt = [start + n // 97 for n in range(length)]
        planned = plan(points, prompt, min(cached, length - 1), ())
        assert planned == sorted(set(planned))
        assert all(cached + MIN_GAP_TOKENS <= point < length for point in planned)
        assert all(after - before >= MIN_GAP_TOKENS for before, after in pairwise(planned))


def test_breakpoints_of_the_template_are_kept_unless_they_are_at_what_is_cached() -> None:
    prompt = list(range(5000))
    assert {1000, 4000} < set(plan(KnownPrompts(), prompt, 0, (1000, 4000)))
    assert plan(KnownPrompts(), prompt, 990, (1000, 4000))[0] == 4000


def test_the_place_where_two_prompts_part_is_one() -> None:
    points, system = KnownPrompts(), list(range(3000))
    plan(points, [*system, *range(10_000, 16_000)], 0, ())
    assert 3000 in plan(points, [*system, *range(20_000, 26_000)], 0, ())


def test_the_next_turn_is_expected_to_part_as_far_from_its_end_as_the_last_one() -> None:
    points, history = KnownPrompts(), list(range(5000))
    plan(points, [*history, *[-1] * 90], 0, ())
    following = [*history, *range(6000, 6900), *[-2] * 90]
    assert plan(points, following, 4990, ()) == [len(following) - 90 - SLACK_TOKENS]


def test_nothing_is_guessed_where_turns_do_not_part() -> None:
    points, prompt = KnownPrompts(), list(range(1000))
    assert plan(points, prompt, 0, ()) == [1000 - tail for tail in sorted(GUESSED_TAILS)[::-1]]
    assert plan(points, [*prompt, *range(2000, 2200)], 999, ()) == []


def test_what_is_known_is_bounded() -> None:
    points = KnownPrompts()
    for n in range(2 * MAX_PROMPTS):
        plan(points, [n] * 10, 0, ())
    assert 4 not in plan(points, [0] * 4 + [9000] * 600, 0, ())


def test_branches_that_went_on_do_not_hide_where_the_conversation_parts() -> None:
    points, history = KnownPrompts(), list(range(5000))
    plan(points, [*history, *[-1] * 90], 0, ())
    for branch in range(6):
        plan(points, [*history, *[-9 - branch] * (300 + branch)], 0, ())
    following = [*history, *range(6000, 6900), *[-2] * 90]
    assert len(following) - 90 - SLACK_TOKENS in plan(points, following, 4990, ())


def test_a_branch_that_has_more_in_common_does_not_hide_what_the_conversation_goes_on_from() -> (
    None
):
    points, history = KnownPrompts(), list(range(5000))
    plan(points, [*history, *[-1] * 40, -3, -4], 0, ())
    plan(points, [*history, -3, -4, *[-9] * 600], 0, ())
    following = [*history, -3, -4, *range(6000, 6900), *[-2] * 40, -3, -4]
    assert len(following) - 42 - SLACK_TOKENS in plan(points, following, 4990, ())


def test_after_an_edit_the_line_that_changes_is_expected_where_it_was() -> None:
    points, history = KnownPrompts(), list(range(5000))
    plan(points, [*history, *[-1] * 40], 0, ())
    plan(points, [*history, *range(6000, 6900), *[-2] * 40], 4990, ())
    edited = [*history[:4000], *range(7000, 8000), *[-5] * 40]
    assert len(edited) - 40 - SLACK_TOKENS in plan(points, edited, 3990, ())


def test_the_same_prompt_again_has_the_same_points() -> None:
    points, history = KnownPrompts(), list(range(5000))
    plan(points, [*history, *[-1] * 90], 0, ())
    following = [*history, *range(6000, 6900), *[-2] * 90]
    first = plan(points, following, 4000, ())
    points.note_answer([*following, 1, 2, 3])
    assert set(plan(points, following, 4000, ())) <= set(first)
    assert len(following) - 90 - SLACK_TOKENS in first
    assert plan(points, following, 5500, ()) == [len(following) - 90 - SLACK_TOKENS]
