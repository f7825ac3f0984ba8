"""Turns of the event loop: a few in each round, in order, and none for who has left."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.transport.turns import Turns

pytestmark = pytest.mark.anyio


async def test_a_turn_is_had_at_once_while_the_round_has_some() -> None:
    turns = Turns(per_round=2)
    for _ in range(2):
        # A coroutine that has to wait would not end with its first step.
        with pytest.raises(StopIteration):
            turns.take().send(None)


@given(st.integers(1, 5), st.integers(1, 30), st.sets(st.integers(0, 29)))
def test_each_round_has_a_few_turns_in_order(
    per_round: int, count: int, cancelled: set[int]
) -> None:
    async def run() -> None:
        turns = Turns(per_round)
        rounds: list[list[int]] = []

        async def take(number: int) -> None:
            await turns.take()
            rounds[-1].append(number)

        tasks = [asyncio.ensure_future(take(number)) for number in range(count)]
        rounds.append([])
        await asyncio.sleep(0)
        for number in cancelled & {*range(count)}:
            tasks[number].cancel()
        while not all(task.done() for task in tasks):
            rounds.append([])
            await asyncio.sleep(0)
        assert all(len(taken) <= per_round for taken in rounds)
        taken = [number for each in rounds for number in each]
        assert taken == sorted(taken)
        had_turns = set(range(min(per_round, count)))
        assert set(taken) == set(range(count)) - (cancelled - had_turns)
        # The next one finds a turn again.
        await asyncio.sleep(0)
        await turns.take()

    asyncio.run(run())
