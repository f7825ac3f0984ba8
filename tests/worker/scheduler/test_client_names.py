"""A client that turns out to be another one shares its places, from then on."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.events import Started
from protocol.messages import RenameClient, Step, Submit
from tests.worker.driver import make_pool, run_loop, tokens_of
from tests.worker.scheduler.timed_device import request
from worker.intake.prepared import prepare
from worker.intake.receiver import Work
from worker.scheduler.preemption.shares import PROGRESS_TOKENS

PROMPT_TOKENS, ANSWER_TOKENS = 12, 24 + PROGRESS_TOKENS
MANY = range(8)
FEW = (20, 21)
PLACES = 4
# The step after which the others come.
ARRIVAL = 4


def ask(id: int, client: str, path: Path) -> Submit:
    return request(id, client, path, PROMPT_TOKENS, ANSWER_TOKENS)


@pytest.mark.parametrize("is_found", [False, True])
def test_the_connections_of_a_process_that_is_found_late_share_its_places(
    llama_path: Path, is_found: bool
) -> None:
    pool = make_pool(llama_path)
    config = pool[llama_path.name].config
    steps: list[Step] = []

    def find(step: Step) -> list[Work]:
        steps.append(step)
        if len(steps) != ARRIVAL:
            return []
        # The last one is still prepared when its process is found.
        late = prepare(config, ask(MANY[-1], f"connection {MANY[-1]}", llama_path))
        few = [prepare(config, ask(id, "few", llama_path)) for id in FEW]
        names: list[Work] = [RenameClient(f"connection {n}", "process") for n in MANY]
        return [*(names if is_found else []), late, *few]

    first = [ask(id, f"connection {id}", llama_path) for id in MANY[:-1]]
    together = run_loop(pool, first, max_running=PLACES, after_step=find)
    started = [event.id for step in together for event in step.events if isinstance(event, Started)]
    assert sorted(started) == [*MANY, *FEW]
    if is_found:
        # Both at once: the process has more than half of the places.
        assert sorted(started[PLACES : PLACES + len(FEW)]) == list(FEW)
        assert started[-1] == MANY[-1]
    else:
        assert not set(started[PLACES : PLACES + 2]) & set(FEW)
    for id in (*MANY, *FEW):
        assert tokens_of(together, id) == tokens_of(
            run_loop(pool, [ask(id, "alone", llama_path)]), id
        )
