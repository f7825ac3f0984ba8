"""Real models in one memory budget: loads between steps, evictions, waits, freed memory."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import pytest

from protocol.events import Finished, Rejected, Started, TextDelta
from protocol.messages import Sampling, Step, Submit, TextPrompt
from tests.device_memory import settled_bytes
from tests.worker.driver import end_of, text_of, tokens_of
from tests.worker.simulation import Simulation, make_pool
from worker.models import weight_loader
from worker.scheduler import admission

GREEDY = Sampling(seed=0, temperature=0.0)
HOUR_S = 3600.0
BETWEEN_REQUESTS_S = 20.0


def make_submit(id: int, model: str, tokens: int = 24, prompt: str = "hello") -> Submit:
    return Submit(id=id, model=model, prompt=TextPrompt(prompt), sampling=GREEDY, max_tokens=tokens)


def weight_bytes_of(*paths: Path) -> int:
    return sum((path / "model.safetensors").stat().st_size for path in paths)


def largest_pause(steps: Sequence[Step], id: int) -> int:
    """The largest distance, in device steps, between two successive tokens of a stream.

    A device step may have several messages, the last one without tokens: it has passed where
    another stream has a token again, or where a second message has none.
    """
    largest = empty = 0
    others = Counter[int]()
    is_begun = has_tokens = False
    for step in steps:
        tokens = [event.id for event in step.events if isinstance(event, TextDelta)]
        if id in tokens:
            if is_begun:
                largest = max(largest, empty + 1, *others.values())
            is_begun, empty, others = True, 0, Counter()
        elif tokens:
            others.update(tokens)
        # Admissions are sent before the device step.
        elif not step.events or not all(isinstance(event, Started) for event in step.events):
            empty += not has_tokens
        has_tokens = bool(tokens)
    return largest


def test_two_models_keep_streaming_while_a_third_is_loaded(
    llama_path: Path, qwen_path: Path, gemma_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_loader, "LOAD_SLICE_BYTES", 64 * 1024)
    pool = make_pool(llama_path, qwen_path, gemma_path, preload=[llama_path.name, qwen_path.name])
    simulation = Simulation(pool)
    first, second, third = (
        make_submit(1, llama_path.name, 120),
        make_submit(2, qwen_path.name, 120),
        make_submit(3, gemma_path.name, 8),
    )
    simulation.run([(0.0, first), (0.0, second), (1.0, third)])
    slices = [
        state.done_bytes
        for change in simulation.state_changes
        for state in change.models
        if state.id == gemma_path.name and state.status == "loading"
    ]
    assert len(set(slices)) > 5
    weights = mx.load(str(gemma_path / "model.safetensors"))
    assert isinstance(weights, dict)
    largest = max(array.nbytes for array in weights.values())
    assert max(b - a for a, b in pairwise(sorted(set(slices)))) <= max(64 * 1024, largest)
    for id in (1, 2):
        assert largest_pause(simulation.steps, id) == 1
    assert all(isinstance(end_of(simulation.steps, id), Finished) for id in (1, 2, 3))


@pytest.mark.long
def test_a_budget_for_two_models_serves_three_for_an_hour(
    llama_path: Path, qwen_path: Path, gemma_path: Path
) -> None:
    paths = [llama_path, qwen_path, gemma_path]
    budget = int(weight_bytes_of(*paths) * 0.8)
    pool = make_pool(*paths, budget=budget)
    simulation = Simulation(pool)
    chance = random.Random(5)
    submits: list[tuple[float, Submit]] = []
    at = 0.0
    while at < HOUR_S:
        at += chance.expovariate(1 / BETWEEN_REQUESTS_S)
        id = len(submits) + 1
        prompt = "word " * chance.randrange(1, 60)
        model = chance.choice(paths).name
        submits.append((at, make_submit(id, model, chance.randrange(1, 60), prompt)))
    simulation.run(submits)
    ends = {e.id: e for step in simulation.steps for e in step.events if isinstance(e, Finished)}
    assert set(ends) == {submit.id for _, submit in submits}
    assert simulation.now >= HOUR_S
    assert max(step.stats.memory.reserved for step in simulation.steps) <= budget
    in_memory = [
        [state.id for state in change.models if state.status != "unloaded"]
        for change in simulation.state_changes
    ]
    assert max(map(len, in_memory)) >= 2
    loads = sum(
        1
        for before, after in pairwise(simulation.state_changes)
        for old, new in zip(before.models, after.models, strict=True)
        if old.status != "loaded" and new.status == "loaded"
    )
    assert loads > 10


def test_answers_are_the_same_after_an_eviction(llama_path: Path, qwen_path: Path) -> None:
    budget = int(weight_bytes_of(llama_path) * 1.9)
    simulation = Simulation(make_pool(llama_path, qwen_path, budget=budget))
    submits = [
        (n * 10.0, make_submit(n, p.name)) for n, p in enumerate([llama_path, qwen_path] * 2, 1)
    ]
    simulation.run(submits)
    assert text_of(simulation.steps, 1) == text_of(simulation.steps, 3) != ""
    assert text_of(simulation.steps, 2) == text_of(simulation.steps, 4) != ""


def test_the_rejection_of_a_model_that_never_fits_names_the_model_that_holds_the_memory(
    llama_path: Path, qwen_path: Path
) -> None:
    budget = int(weight_bytes_of(llama_path) * 1.9)
    pool = make_pool(
        llama_path, qwen_path, budget=budget, preload=[llama_path.name], pinned=[llama_path.name]
    )
    simulation = Simulation(pool)
    simulation.run([(0.0, make_submit(1, qwen_path.name)), (1.0, make_submit(2, llama_path.name))])
    rejected = end_of(simulation.steps, 1)
    assert isinstance(rejected, Rejected)
    assert rejected.code == "insufficient_memory"
    assert llama_path.name in rejected.message
    assert isinstance(end_of(simulation.steps, 2), Finished)


def test_a_request_waits_for_the_memory_of_a_busy_model_and_is_served_when_it_is_idle(
    llama_path: Path, qwen_path: Path
) -> None:
    budget = int(weight_bytes_of(llama_path) * 1.9)
    pool = make_pool(llama_path, qwen_path, budget=budget, preload=[llama_path.name])
    simulation = Simulation(pool)
    simulation.run(
        [(0.0, make_submit(1, llama_path.name, 100)), (0.1, make_submit(2, qwen_path.name))]
    )
    assert isinstance(end_of(simulation.steps, 1), Finished)
    assert isinstance(end_of(simulation.steps, 2), Finished)


def test_a_request_that_waits_too_long_for_a_busy_models_memory_is_rejected(
    llama_path: Path, qwen_path: Path
) -> None:
    budget = int(weight_bytes_of(llama_path) * 1.9)
    pool = make_pool(llama_path, qwen_path, budget=budget, preload=[llama_path.name])
    simulation = Simulation(pool, wait_s=2.0)
    simulation.run(
        [(0.0, make_submit(1, llama_path.name, 200)), (0.1, make_submit(2, qwen_path.name))]
    )
    rejected = end_of(simulation.steps, 2)
    assert isinstance(rejected, Rejected)
    assert rejected.code == "insufficient_memory"
    assert isinstance(end_of(simulation.steps, 1), Finished)


def test_a_request_that_never_fits_is_rejected_and_one_that_will_fit_waits(
    llama_path: Path,
) -> None:
    pool = make_pool(llama_path, preload=[llama_path.name])
    cost = pool[llama_path.name].engine.kv_cost
    budget = weight_bytes_of(llama_path) + cost.batch_bytes(1, 512)
    pool = make_pool(llama_path, budget=budget, preload=[llama_path.name])
    simulation = Simulation(pool)
    submits = [make_submit(n, llama_path.name, 300) for n in (1, 2)]
    too_long = make_submit(4, llama_path.name, 2000)
    simulation.run([(0.0, submit) for submit in [*submits, too_long]])
    assert all(isinstance(end_of(simulation.steps, n), Finished) for n in (1, 2))
    assert max(step.stats.running for step in simulation.steps) == 1
    rejected = end_of(simulation.steps, 4)
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.param) == ("context_length_exceeded", "prompt")


def test_answers_without_a_limit_share_memory_and_end_when_it_is_full(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "RESERVATION_TOKENS", 64)
    pool = make_pool(llama_path, preload=[llama_path.name])
    open_ended = [
        Submit(id=n, model=llama_path.name, prompt=TextPrompt(f"{n}"), sampling=GREEDY)
        for n in (1, 2)
    ]
    cost = pool[llama_path.name].engine.kv_cost
    alone = Simulation(pool)
    alone.run([(0.0, make_submit(n, llama_path.name, 500, f"{n}")) for n in (1, 2)])
    budget = weight_bytes_of(llama_path) + cost.batch_bytes(2, 256)
    assert cost.batch_bytes(1, 512) == cost.batch_bytes(2, 256)
    pool = make_pool(llama_path, budget=budget, preload=[llama_path.name], pinned=[llama_path.name])
    simulation = Simulation(pool)
    simulation.run([(0.0, submit) for submit in open_ended])
    assert max(step.stats.running for step in simulation.steps) == 2
    assert max(step.stats.memory.reserved for step in simulation.steps) <= budget
    for submit in open_ended:
        end = end_of(simulation.steps, submit.id)
        assert isinstance(end, Finished)
        assert end.prompt_tokens + end.completion_tokens == 512
        assert tokens_of(simulation.steps, submit.id)[:500] == tokens_of(alone.steps, submit.id)


def test_an_unused_model_is_unloaded_and_its_memory_freed(
    llama_path: Path, qwen_path: Path
) -> None:
    pool = make_pool(llama_path, qwen_path, preload=[llama_path.name], pinned=[llama_path.name])
    simulation = Simulation(pool)
    before = settled_bytes()
    simulation.run(
        [(0.0, make_submit(1, qwen_path.name, 200)), (400.0, make_submit(2, llama_path.name))]
    )
    active = [step.stats.memory.active for step in simulation.steps]
    assert max(active) - active[0] >= weight_bytes_of(qwen_path) * 0.9
    assert qwen_path.name not in pool
    # The step behind the last token may still run.
    mx.synchronize()
    assert mx.get_active_memory() <= before * 1.05
