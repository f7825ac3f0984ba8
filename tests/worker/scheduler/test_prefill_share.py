"""Prompts take half of the time beside other clients' answers, models take turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.events import Finished, Started
from protocol.messages import (
    CommandResult,
    ModelsChanged,
    Sampling,
    Step,
    Submit,
    TokenPrompt,
)
from tests.worker.simulation import STEP_S, Simulation, make_pool
from worker.engine.engine import Engine, Token
from worker.models.pool import ModelPool
from worker.scheduler.preemption.prefill_share import SliceTurns

# A slice of prefill takes ten times as long as a step of decoding.
SLICE_S = 10 * STEP_S
STREAM_TOKENS = 150
PROMPT_TOKENS = 100
PROMPTS = 30
STREAM_BEGINS_S = 0.5

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


class SlowPrefill(Simulation):
    """A simulation in which a slice takes `SLICE_S`, but for the last one of a prompt.

    `begun` and `ended` have the time of each request, and how much of it prefill took until then.
    """

    def __init__(self, pool: ModelPool) -> None:
        super().__init__(pool, most_steps=20_000)
        self.prefill_s = 0.0
        # What each of these sends when its answer ends.
        self.next_of: dict[int, Submit] = {}
        self.begun: dict[int, tuple[float, float]] = {}
        self.ended: dict[int, tuple[float, float]] = {}
        for model in pool:
            self._slow_down(model.engine)

    def _slow_down(self, engine: Engine) -> None:
        step: Callable[..., list[Token]] = engine.step

        def step_slowly(*arguments: Any) -> list[Token]:
            tokens = step(*arguments)
            if engine.progress:
                self.now += SLICE_S
                self.prefill_s += SLICE_S
            return tokens

        engine.step = step_slowly  # type: ignore[assignment, method-assign]

    def send(self, message: Step | ModelsChanged | CommandResult) -> None:
        super().send(message)
        for event in message.events if isinstance(message, Step) else ():
            if isinstance(event, Started):
                self.begun[event.id] = self.now, self.prefill_s
            if isinstance(event, Finished):
                self.ended[event.id] = self.now, self.prefill_s
                if (following := self.next_of.get(event.id)) is not None:
                    self.arrivals.append((self.now, following))


@pytest.fixture
def simulation(llama_path: Path) -> SlowPrefill:
    return SlowPrefill(make_pool(llama_path, preload=[llama_path.name]))


def stream(client: str, path: Path) -> Submit:
    """A short prompt with a long answer; its id is 0."""
    return request(0, client, path, [5, 6, 7], STREAM_TOKENS)


def prompt(id: int, client: str, path: Path) -> Submit:
    """A prompt of some slices for one token; none is the beginning of another."""
    return request(id, client, path, [10 + id] * PROMPT_TOKENS, 1)


def request(id: int, client: str, path: Path, tokens: list[int], answer: int) -> Submit:
    return Submit(
        id=id,
        model=path.name,
        prompt=TokenPrompt(tokens),
        sampling=Sampling(seed=id, temperature=0.0, ignore_eos=True),
        max_tokens=answer,
        client=client,
    )


@pytest.mark.parametrize("clients", [["a"], ["a", "b"]])
def test_prompts_that_follow_one_another_leave_half_of_the_time(
    simulation: SlowPrefill, llama_path: Path, clients: list[str]
) -> None:
    count = len(clients)
    prompts = [prompt(id, clients[id % count], llama_path) for id in range(1, PROMPTS)]
    simulation.next_of = {each.id - count: each for each in prompts[count:]}
    first = [(STREAM_BEGINS_S, each) for each in prompts[:count]]
    simulation.run([(0.0, stream("s", llama_path)), *first])
    assert simulation.ended[0][0] < simulation.ended[PROMPTS - 1][0]
    (began_s, _), (ended_s, prefill_s) = simulation.begun[0], simulation.ended[0]
    assert prefill_s <= (ended_s - began_s) / 2 + 2 * SLICE_S
    assert prefill_s >= (ended_s - began_s) / 3
    assert sorted(simulation.ended) == list(range(PROMPTS))


def test_a_client_alone_waits_for_nothing(simulation: SlowPrefill, llama_path: Path) -> None:
    prompts = [prompt(id, "s", llama_path) for id in range(1, PROMPTS)]
    simulation.next_of = {each.id - 1: each for each in prompts[1:]}
    simulation.run([(0.0, stream("s", llama_path)), (STREAM_BEGINS_S, prompts[0])])
    for each in prompts:
        (began_s, before_s), (ended_s, after_s) = (
            simulation.begun[each.id],
            simulation.ended[each.id],
        )
        slices = (after_s - before_s) / SLICE_S
        # A step with a slice has two messages: the stream's token leaves before the slice ends.
        assert ended_s - began_s <= slices * (SLICE_S + 2 * STEP_S) + 5 * STEP_S
