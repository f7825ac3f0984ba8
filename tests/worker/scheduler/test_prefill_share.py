"""Prompts take half of the time beside other clients' answers, models take turns."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.scheduler.timed_device import DECODE_S, MESSAGE_S, TimedDevice, request, stream
from worker.scheduler.preemption.prefill_share import SliceTurns

STREAM_TOKENS = 150
PROMPT_TOKENS = 100
PROMPTS = 30
PROMPT_BEGINS_S = 0.5

NAMES = ("a", "b", "c", "d")


@given(st.lists(st.sets(st.sampled_from(NAMES)), max_size=40))
def test_who_waits_in_each_round_has_a_turn_before_the_others_have_two(
    rounds: list[set[str]],
) -> None:
    turns = SliceTurns()
    passed_over = dict.fromkeys(NAMES, 0)
    for asking in rounds:
        taken = next((name for name in NAMES if name in asking and turns.take(name)), None)
        for name in NAMES:
            waits = name in asking and name != taken
            passed_over[name] = passed_over[name] + 1 if waits else 0
            if waits:
                turns.wait(name)
            # A round may be lost to one that waited, and is gone.
            assert passed_over[name] <= 2 * len(NAMES)


def test_a_name_that_is_gone_holds_nobody_up() -> None:
    turns = SliceTurns()
    turns.wait("gone")
    assert not turns.take("here")
    assert turns.take("here")
    assert turns.take("here")


@pytest.mark.parametrize("clients", [["a"], ["a", "b"]])
def test_prompts_that_follow_one_another_leave_half_of_the_time(
    device: TimedDevice, paths: list[Path], clients: list[str]
) -> None:
    count = len(clients)
    prompts = [
        request(id, clients[id % count], paths[0], PROMPT_TOKENS) for id in range(1, PROMPTS)
    ]
    device.next_of = {each.id - count: each for each in prompts[count:]}
    first = [(PROMPT_BEGINS_S, each) for each in prompts[:count]]
    device.run([(0.0, stream(paths[0], STREAM_TOKENS)), *first])
    ended_s = device.sent_at[0][-1]
    assert ended_s < device.sent_at[PROMPTS - 1][-1]
    beside = [seconds for _, end, seconds in device.slices if PROMPT_BEGINS_S < end <= ended_s]
    assert sum(beside) <= (ended_s - PROMPT_BEGINS_S) / 2 + 2 * max(beside)
    assert sum(beside) >= (ended_s - PROMPT_BEGINS_S) / 3
    assert sorted(device.sent_at) == list(range(PROMPTS))


def test_a_client_alone_waits_for_nothing(device: TimedDevice, paths: list[Path]) -> None:
    prompts = [request(id, "s", paths[0], PROMPT_TOKENS) for id in range(1, PROMPTS)]
    device.next_of = {a.id: b for a, b in pairwise(prompts)}
    device.run([(0.0, stream(paths[0], STREAM_TOKENS)), (PROMPT_BEGINS_S, prompts[0])])
    for before, after in pairwise(prompts):
        began_s, ended_s = device.sent_at[before.id][-1], device.sent_at[after.id][-1]
        own = [seconds for _, end, seconds in device.slices if began_s < end <= ended_s]
        # A step with a slice has two messages: the stream's token leaves before the slice ends.
        steps_s = (len(own) + 5) * (DECODE_S + 2 * MESSAGE_S)
        assert ended_s - began_s <= sum(own) + steps_s
