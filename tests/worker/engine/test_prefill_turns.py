"""Turns of prefill: the shortest prompt of the lowest priority first, and no prompt starves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.utils import load_model

from protocol.messages import Sampling
from worker.engine.batches.prefill_turns import OLDEST_TURN, PrefillTurns, Turn
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row

SLICE_TOKENS = 64
LONG_TOKENS = 960
GREEDY = Sampling(seed=0, temperature=0.0, ignore_eos=True)

# Of each prompt: the slices that pass before it arrives, its own, and its priority.
arrivals = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 12), st.integers(-2, 2)), min_size=1, max_size=30
)


def simulate(drawn: list[tuple[int, int, int]]) -> dict[int, tuple[int, int]]:
    """When each prompt arrives and ends, counted in slices."""
    turns, now, left = PrefillTurns(), 0, dict[int, Turn]()
    times: dict[int, tuple[int, int]] = {}
    waiting = [(number, *each) for number, each in enumerate(drawn)]
    due = waiting[0][1]
    while waiting or left:
        while waiting and (now >= due or not left):
            number, _, slices, priority = waiting.pop(0)
            left[number] = Turn(priority, slices, number)
            times[number] = (now, 0)
            due = now + (waiting[0][1] if waiting else 0)
        [*prompts] = left.values()
        turn = prompts[turns.order(prompts)[0]]
        now += 1
        left[turn.arrival] = turn._replace(left=turn.left - 1)
        if turn.left == 1:
            del left[turn.arrival]
            times[turn.arrival] = (times[turn.arrival][0], now)
    return times


@given(arrivals)
def test_a_prompt_waits_at_most_four_times_as_long_as_first_come_first_served(
    drawn: list[tuple[int, int, int]],
) -> None:
    for number, (arrived, ended) in simulate(drawn).items():
        before = sum(slices for _, slices, _ in drawn[: number + 1])
        assert ended - arrived <= OLDEST_TURN * before


@given(st.integers(1, 20), st.integers(2, 60), st.integers(0, 3))
def test_a_short_prompt_waits_for_one_slice_of_long_ones(
    short: int, longer: int, since: int
) -> None:
    turns = PrefillTurns()
    long = [Turn(0, short + longer, arrival) for arrival in range(3)]
    for _ in range(since):
        turns.order(long)
    first, second = (turns.order([*long, Turn(0, short, 9)])[0] for _ in range(2))
    assert 3 in (first, second)


def test_a_lower_priority_comes_before_a_shorter_prompt() -> None:
    assert PrefillTurns().order([Turn(0, 5, 1), Turn(-1, 500, 2), Turn(3, 1, 3)]) == [1, 0, 2]


def prefill(engine: Engine, prompts: list[tuple[list[int], int]]) -> dict[int, tuple[int, int]]:
    """Of each prompt the steps and prompt tokens that are computed until its first token.

    The last one is inserted after the first slice.
    """
    for id, (prompt, priority) in enumerate(prompts[:-1]):
        engine.insert(id, prompt, 1, make_row(GREEDY, priority=priority))
    first: dict[int, tuple[int, int]] = {}
    done: dict[int, int] = {}
    steps = 0
    while len(engine):
        for token in engine.step():
            first.setdefault(token.id, (steps, sum(done.values())))
        done.update({id: computed for id, computed, _ in engine.progress})
        steps += 1
        if steps == 1:
            prompt, priority = prompts[-1]
            engine.insert(len(prompts) - 1, prompt, 1, make_row(GREEDY, priority=priority))
    return first


@pytest.mark.parametrize("priority", [0, 5])
def test_a_short_prompt_beside_three_long_ones_is_computed_within_a_few_slices(
    llama_path: Path, priority: int
) -> None:
    model, _ = load_model(llama_path)
    limits = PrefillLimits(max_tokens=SLICE_TOKENS, max_rows=1, slice_s=1e6)
    long = [([50 + n] * LONG_TOKENS, priority) for n in range(3)]
    engine = Engine(model, max_running=8, prefill=limits)
    together = prefill(engine, [*long, ([9] * 30, 0)])
    # First come, first served it would wait for all of them.
    total = 3 * LONG_TOKENS
    assert together[3][1] <= total / 3
    assert together[3][0] <= 4
    # What the short one takes is all that the long ones lose.
    assert max(steps for steps, _ in together.values()) <= 3 * LONG_TOKENS // SLICE_TOKENS + 6
