"""Freed memory goes back to the system once a model is no longer used."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.events import Finished
from protocol.messages import Sampling, Submit, TextPrompt
from tests.worker.simulation import STEP_S, Simulation, make_pool
from worker.scheduler.steps import memory_pressure
from worker.scheduler.steps.memory_pressure import IDLE_RETURN_S

SECOND_S, THIRD_S = 100.0, 100.0 + IDLE_RETURN_S / 2


def test_an_idle_process_returns_freed_memory_once_after_each_use(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = Simulation(make_pool(llama_path, preload=[llama_path.name]))
    returned_at: list[float] = []
    monkeypatch.setattr(
        memory_pressure, "return_freed_memory", lambda: returned_at.append(simulation.now)
    )
    simulation.run(
        [
            (
                at,
                Submit(
                    number, llama_path.name, TextPrompt("Hello"), Sampling(seed=0), max_tokens=3
                ),
            )
            for number, at in enumerate([0.0, SECOND_S, THIRD_S])
        ]
    )
    ends = [each for step in simulation.steps for each in step.events if isinstance(each, Finished)]
    assert len(ends) == 3
    # Not between the second and the third request, which follow each other closely.
    first, last = returned_at
    assert IDLE_RETURN_S <= first < IDLE_RETURN_S + len(simulation.steps) * STEP_S
    assert last >= THIRD_S + IDLE_RETURN_S
