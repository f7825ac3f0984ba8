"""Text that is made when it is sent is complete, whatever happens to its request meanwhile."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from pathlib import Path

import pytest

from protocol.events import Failed, Finished
from protocol.messages import Cancel, Sampling, Step, Submit, TextPrompt
from tests.worker.driver import end_of, events_of, text_of, tokens_of
from tests.worker.simulation import Simulation, make_pool
from worker.call_readers.deltas import OutputDelta
from worker.intake.receiver import Work
from worker.models.pool import ModelPool
from worker.outputs.text import Text

TURN_S = 0.01
# Longer than all steps: text leaves only with what may not wait.
INTERVAL_S = 1000.0
ANSWER_TOKENS = 60


class TimedSimulation(Simulation):
    """A simulation in which each turn of the loop takes a time, and work may come at one."""

    works: Sequence[tuple[float, Work]] = ()

    def get(self, block: bool = True, timeout: float | None = None) -> Work:
        """The work that is due."""
        self.now += TURN_S
        if self.works and self.works[0][0] <= self.now:
            (_, work), *self.works = self.works
            return work
        if not block and not self.arrivals:
            raise queue.Empty
        return super().get(block, timeout)


@pytest.fixture
def pool(llama_path: Path) -> ModelPool:
    return make_pool(llama_path, preload=[llama_path.name])


def request(id: int, path: Path, client: str = "a") -> Submit:
    sampling = Sampling(seed=id, temperature=0.0, ignore_eos=True)
    prompt = TextPrompt(f"The story of number {id} begins")
    return Submit(id, path.name, prompt, sampling, max_tokens=ANSWER_TOKENS, client=client)


def run(pool: ModelPool, submits: Sequence[tuple[float, Submit]], **settings: float) -> list[Step]:
    simulation = TimedSimulation(pool, max_running=4, **settings)  # type: ignore[arg-type]
    simulation.run(submits)
    return simulation.steps


def test_a_preempted_answer_sends_the_text_of_the_tokens_that_it_has(
    pool: ModelPool, llama_path: Path
) -> None:
    many = [(0.0, request(id, llama_path)) for id in range(4)]
    few = [(0.4, request(id, llama_path, "b")) for id in (20, 21)]
    steps = run(pool, [*many, *few], stream_interval_s=INTERVAL_S)
    assert sum(step.stats.preempted for step in steps) == 2
    for _, submit in [*many, *few]:
        alone = run(pool, [(0.0, submit)], stream_interval_s=0.0)
        assert tokens_of(steps, submit.id) == tokens_of(alone, submit.id)
        assert text_of(steps, submit.id) == text_of(alone, submit.id)
        assert isinstance(end_of(steps, submit.id), Finished)


def test_a_cancelled_request_sends_nothing_that_it_holds(pool: ModelPool, llama_path: Path) -> None:
    simulation = TimedSimulation(pool, stream_interval_s=INTERVAL_S)
    simulation.works = [(0.3, Cancel([1]))]
    simulation.run([(0.0, request(id, llama_path)) for id in (1, 2)])
    assert len(tokens_of(simulation.steps, 1)) < ANSWER_TOKENS / 2
    assert not [event for event in events_of(simulation.steps, 1) if isinstance(event, Finished)]
    assert len(tokens_of(simulation.steps, 2)) == ANSWER_TOKENS


def test_an_error_in_text_that_is_made_later_ends_only_its_request(
    pool: ModelPool, llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(Text):
        def read_all(self, tokens: Sequence[int]) -> list[OutputDelta]:
            raise LookupError("an error that the test causes")

    create = pool[llama_path.name].config.parsers.create

    def create_faulty(submit: Submit, prompt: list[int]) -> Text:
        text = create(submit, prompt)
        if submit.id == 1:
            text.__class__ = Faulty
        return text

    monkeypatch.setattr(pool[llama_path.name].config.parsers, "create", create_faulty)
    submits = [(0.0, request(id, llama_path)) for id in (1, 2)]
    steps = run(pool, submits, stream_interval_s=0.01)
    assert isinstance(end_of(steps, 1), Failed)
    assert len([event for event in events_of(steps, 1) if isinstance(event, Failed)]) == 1
    assert len(tokens_of(steps, 2)) == ANSWER_TOKENS
