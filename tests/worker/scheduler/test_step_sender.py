"""Text of quick steps is sent together; first tokens, ends and all else leave at once."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.events import Event, Finished, Started, TextDelta
from protocol.messages import (
    CommandResult,
    ModelsChanged,
    Sampling,
    Step,
    Submit,
    TextPrompt,
)
from protocol.stats import Memory
from tests.worker.driver import events_of, make_config_loader, text_of, tokens_of
from tests.worker.simulation import Clock, Simulation, make_pool
from worker.intake.preprocessor import Preprocessor
from worker.scheduler.steps.memory_pressure import MemoryPressure
from worker.scheduler.steps.step_sender import StepSender
from worker.scheduler.waiting_queue import WaitingQueue

INTERVAL_S = 0.016
FINISHED = Finished(1, "stop", 1, 1, 0.0, 0.0, 0.0)

MakeSender = Callable[[Clock, list[Step]], StepSender]


@pytest.fixture
def make_sender(llama_path: Path) -> MakeSender:
    """Makes a sender of a real pool that notes what it sends."""
    pool = make_pool(llama_path, preload=[llama_path.name])

    def make(clock: Clock, steps: list[Step]) -> StepSender:
        def send(message: Step | ModelsChanged | CommandResult) -> None:
            assert isinstance(message, Step)
            steps.append(message)

        return StepSender(
            send,
            pool,
            Preprocessor(pool.sources, make_config_loader(), queue.SimpleQueue()),
            MemoryPressure(pool, WaitingQueue(), Memory),
            count=lambda: (2, 0),
            interval_s=INTERVAL_S,
            clock=clock,
        )

    return make


def decode(sender: StepSender, clock: Clock, number: int, step_s: float) -> None:
    """A step of this duration, which brings a token of two rows."""
    started_at = clock()
    clock.now += step_s
    for id in (1, 2):
        sender.add_text([TextDelta(id, f"{number} ", [number])])
    sender.end_step(started_at, step_s)


@pytest.mark.parametrize("step_ms", [1, 3, 7, 8, 9, 16, 17, 50])
def test_text_waits_at_most_the_interval_and_steps_as_long_are_sent_at_once(
    make_sender: MakeSender, step_ms: int
) -> None:
    clock, steps = Clock(), list[Step]()
    sender, step_s = make_sender(clock, steps), step_ms / 1000
    computed_at: dict[int, float] = {}
    sent: list[int] = []
    for number in range(100):
        decode(sender, clock, number, step_s)
        computed_at[number] = clock()
        for step in steps:
            assert len(step.events) == 2
            assert step.stats.steps * 2 == step.stats.step_sequences
            assert step.stats.device_ms == pytest.approx(step.stats.steps * step_ms)
            for event in step.events:
                assert isinstance(event, TextDelta)
                assert len(event.tokens) == step.stats.steps
                assert clock() - computed_at[event.tokens[0]] <= INTERVAL_S
                if event.id == 1:
                    sent += event.tokens
        if step_s > INTERVAL_S / 2:
            assert len(steps) == 1
        steps.clear()
    assert sent == list(range(len(sent)))
    assert len(sent) > 100 - INTERVAL_S / step_s


@pytest.mark.parametrize("event", [FINISHED, Started(3, 1), TextDelta(3, "first", [1])])
def test_what_must_not_wait_takes_what_is_held_along(make_sender: MakeSender, event: Event) -> None:
    clock, steps = Clock(), list[Step]()
    sender = make_sender(clock, steps)
    decode(sender, clock, 0, 0.001)
    decode(sender, clock, 1, 0.001)
    assert steps == []
    sender.send_urgent()
    assert steps == []
    sender.events.append(event)
    sender.send_urgent()
    [step] = steps
    both = [TextDelta(id, "0 1 ", [0, 1]) for id in (1, 2)]
    assert step.events == [*both, event]
    sender.end_step(clock(), 0.0)
    assert steps[1].events == []


def test_what_is_held_leaves_before_what_may_take_long(make_sender: MakeSender) -> None:
    clock, steps = Clock(), list[Step]()
    sender = make_sender(clock, steps)
    decode(sender, clock, 0, 0.001)
    sender.send_all()
    sender.send_all()
    [step] = steps
    assert step.events == [TextDelta(id, "0 ", [0]) for id in (1, 2)]


def answer_to(model: str, id: int, prompt: str, tokens: int) -> Submit:
    """A greedy request; its answer has this number of tokens."""
    sampling = Sampling(seed=id, temperature=0.0, ignore_eos=True)
    return Submit(id, model, TextPrompt(prompt), sampling, max_tokens=tokens)


def test_answers_are_the_same_in_fewer_events_and_first_tokens_are_alone(
    llama_path: Path,
) -> None:
    submits = [
        (0.0, answer_to(llama_path.name, 1, "the first one", 40)),
        (0.3, answer_to(llama_path.name, 2, "another", 30)),
    ]
    pool = make_pool(llama_path, preload=[llama_path.name])
    found = []
    for interval_s in (0.0, 1.0):
        simulation = Simulation(pool, stream_interval_s=interval_s)
        simulation.run(submits)
        found.append(simulation.steps)
    each, joined = found
    for id in (1, 2):
        assert text_of(joined, id) == text_of(each, id)
        assert tokens_of(joined, id) == tokens_of(each, id)
        deltas = [event for event in events_of(joined, id) if isinstance(event, TextDelta)]
        assert len(deltas[0].tokens) == 1
        assert len(deltas) < len(tokens_of(joined, id)) / 2
        end = events_of(joined, id)[-1]
        assert isinstance(end, Finished)
    assert sum(step.stats.steps for step in joined) == sum(step.stats.steps for step in each)
