"""Restore points: inside the prompt, never crowded, and where the next turn will part."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.cache.restore_points import (
    GUESSED_TAILS,
    MAX_PROMPTS,
    MIN_GAP_TOKENS,
    SLACK_TOKENS,
    RestorePoints,
)

prompts = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 900), st.integers(0, 200)), min_size=1, max_size=12
)


@given(prompts)
def test_points_are_behind_what_is_cached_and_inside_the_prompt(
    drawn: list[tuple[int, int, int]],
) -> None:
    points = RestorePoints()
    for start, length, cached in drawn:
        prompt = [start + n // 97 for n in range(length)]
        planned = points.plan(prompt, min(cached, length - 1), ())
        assert planned == sorted(set(planned))
        assert all(cached + MIN_GAP_TOKENS <= point < length for point in planned)
        assert all(after - before >= MIN_GAP_TOKENS for before, after in pairwise(planned))


def test_breakpoints_of_the_template_are_kept_unless_they_are_at_what_is_cached() -> None:
    prompt = list(range(5000))
    assert {1000, 4000} < set(RestorePoints().plan(prompt, 0, (1000, 4000)))
    assert RestorePoints().plan(prompt, 990, (1000, 4000))[0] == 4000


def test_the_place_where_two_prompts_part_is_one() -> None:
    points, system = RestorePoints(), list(range(3000))
    points.plan([*system, *range(10_000, 16_000)], 0, ())
    assert 3000 in points.plan([*system, *range(20_000, 26_000)], 0, ())


def test_the_next_turn_is_expected_to_part_as_far_from_its_end_as_the_last_one() -> None:
    points, history = RestorePoints(), list(range(5000))
    points.plan([*history, *[-1] * 90], 0, ())
    following = [*history, *range(6000, 6900), *[-2] * 90]
    assert points.plan(following, 4990, ()) == [len(following) - 90 - SLACK_TOKENS]


def test_nothing_is_guessed_where_turns_do_not_part() -> None:
    points, prompt = RestorePoints(), list(range(1000))
    assert points.plan(prompt, 0, ()) == [1000 - tail for tail in sorted(GUESSED_TAILS)[::-1]]
    assert points.plan([*prompt, *range(2000, 2200)], 999, ()) == []


def test_what_is_known_is_bounded() -> None:
    points = RestorePoints()
    for n in range(2 * MAX_PROMPTS):
        points.plan([n] * 10, 0, ())
    assert 4 not in points.plan([0] * 4 + [9000] * 600, 0, ())


def test_branches_that_went_on_do_not_hide_where_the_conversation_parts() -> None:
    points, history = RestorePoints(), list(range(5000))
    points.plan([*history, *[-1] * 90], 0, ())
    for branch in range(6):
        points.plan([*history, *[-9 - branch] * (300 + branch)], 0, ())
    following = [*history, *range(6000, 6900), *[-2] * 90]
    assert len(following) - 90 - SLACK_TOKENS in points.plan(following, 4990, ())
