"""A simulated device of known speed, which computes real models; its clock is the test's."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.events import Finished, TextDelta
from protocol.messages import (
    CommandResult,
    ModelsChanged,
    Sampling,
    Step,
    Submit,
    TokenPrompt,
)
from tests.worker.simulation import Simulation
from worker.engine.rows import row_generator
from worker.models.pool import ModelPool

# What the device takes for a decode step, and for a token of a prompt.
DECODE_S, TOKEN_S = 0.02, 0.002
# What a message costs.
MESSAGE_S = 1e-5


class TimedDevice(Simulation):
    """A simulation in which decode steps and slices take their time; nothing else takes any.

    `slices` have the model, the time of its end and the length of each.
    """

    def __init__(self, pool: ModelPool, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(pool, most_steps=20_000)
        self.token_s: dict[str, float] = {}
        self.slices: list[tuple[str, float, float]] = []
        self.sent_at: defaultdict[int, list[float]] = defaultdict(list)
        # What each of these sends when its answer ends.
        self.next_of: dict[int, Submit] = {}
        monkeypatch.setattr(row_generator, "time", SimpleNamespace(perf_counter=self.clock))
        for model in pool:
            self._slow_down(model.info.id, model.engine._generator)

    def _slow_down(self, name: str, generator: Any) -> None:
        decode, wait = generator._decode, generator.wait

        def decode_slowly() -> Any:
            self.now += DECODE_S if generator.is_decoding else 0.0
            return decode()

        def wait_long() -> None:
            step = generator._step_in_flight
            if step is not None and step.computed_tokens:
                seconds = step.computed_tokens * self.token_s.get(name, TOKEN_S)
                self.now += seconds
                self.slices.append((name, self.now, seconds))
            wait()

        generator._decode, generator.wait = decode_slowly, wait_long

    def send(self, message: Step | ModelsChanged | CommandResult) -> None:
        self.now += MESSAGE_S
        for event in message.events if isinstance(message, Step) else ():
            if isinstance(event, TextDelta):
                self.sent_at[event.id].append(self.now)
            following = self.next_of.get(event.id) if isinstance(event, Finished) else None
            if following is not None:
                self.arrivals.append((self.now, following))


def stream(path: Path, tokens: int) -> Submit:
    """A short prompt with a long answer; its id is 0."""
    return request(0, "s", path, 4, tokens)


def request(id: int, client: str, path: Path, tokens: int, answer: int = 1) -> Submit:
    random = Random(id)
    return Submit(
        id=id,
        model=path.name,
        prompt=TokenPrompt([random.randrange(10, 200) for _ in range(tokens)]),
        sampling=Sampling(seed=id, temperature=0.0, ignore_eos=True),
        max_tokens=answer,
        client=client,
    )
