"""Ceilings on the device: reserved stretch by stretch, cut to the memory, seldom preempted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.events import Event, Finished, Rejected, TextDelta
from protocol.messages import Sampling, Step, Submit, TokenPrompt
from protocol.units import MS_PER_S
from tests.worker.driver import end_of, tokens_of
from tests.worker.simulation import STEP_S, Simulation, kv_cost_of, make_pool
from worker.memory import kv_cost
from worker.scheduler import admission
from worker.scheduler.steps.memory_pressure import IDLE_RETURN_S

GREEDY = Sampling(seed=0, temperature=0.0)
# Small, so that short answers run short of memory.
QUANTUM_TOKENS = 8
REQUESTS = 32
CONTEXT_TOKENS = 256
HUGE_TOKENS = 32_000
SHORT_CONTEXT = 64
MOST_RECOMPUTED = 0.2
MOST_STEPS = 4000


@pytest.fixture(scope="module", autouse=True)
def _small_quanta() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cost, "STEP_TOKENS", QUANTUM_TOKENS)
        patch.setattr(admission, "RESERVATION_TOKENS", QUANTUM_TOKENS)
        yield


def ceiling(id: int, path: Path, max_tokens: int | None, prompt_tokens: int = 4) -> Submit:
    """A request that ends by length alone: no answer of the tests' models ends by itself."""
    return Submit(
        id=id,
        model=path.name,
        prompt=TokenPrompt([300 + id] * prompt_tokens),
        sampling=GREEDY,
        max_tokens=max_tokens,
        ceiling=True,
    )


def strict(id: int, path: Path, max_tokens: int) -> Submit:
    """A request that reserves its whole answer."""
    return msgspec.structs.replace(ceiling(id, path, max_tokens), ceiling=False)


def budget_for(path: Path, *, rows: int, tokens: int) -> int:
    """The memory of a model's weights, and of `rows` rows with `tokens` tokens."""
    return weight_bytes(path) + kv_cost_of(path).batch_bytes(rows, tokens)


def weight_bytes(path: Path) -> int:
    return (path / "model.safetensors").stat().st_size


def run(
    *paths: Path,
    budget: int,
    arrivals: Sequence[tuple[float, Submit]],
    pinned: bool = True,
    context: int = CONTEXT_TOKENS,
    places: int = REQUESTS,
) -> Simulation:
    """All steps until nothing arrives or waits any more."""
    names = [path.name for path in paths]
    pool = make_pool(
        *paths,
        budget=budget,
        preload=names,
        pinned=names if pinned else (),
        max_running=places,
        context_limit=context,
    )
    simulation = Simulation(pool, max_running=places, context_limit=context, measures_memory=False)
    simulation.run(arrivals)
    assert max(step.stats.memory.reserved for step in simulation.steps) <= budget
    return simulation


def at_once(submits: Sequence[Submit]) -> list[tuple[float, Submit]]:
    return [(0.0, submit) for submit in submits]


def ends_of(steps: Sequence[Step]) -> dict[int, Event]:
    ends = Finished | Rejected
    return {event.id: event for step in steps for event in step.events if isinstance(event, ends)}


def preempted(steps: Sequence[Step]) -> int:
    return sum(step.stats.preempted for step in steps)


def recomputed(steps: Sequence[Step]) -> int:
    return sum(step.stats.recomputed_tokens for step in steps)


def paused(steps: Sequence[Step], submits: Sequence[Submit]) -> list[int]:
    """The requests that paused, after a token, while they were the oldest of these running.

    `submits` are in order of arrival.
    """
    order = [submit.id for submit in submits]
    found: list[int] = []
    ended: set[int] = set()
    oldest: int | None = None
    events: list[Event] = []
    for step in steps:
        events += step.events
        if not step.stats.device_ms:
            # Admissions are sent before the device step, and tokens while it computes prompts.
            continue
        decoded = {event.id for event in events if isinstance(event, TextDelta)}
        if oldest is not None and oldest not in decoded:
            found.append(oldest)
        ended |= {event.id for event in events if isinstance(event, Finished)}
        oldest = next((id for id in order if id not in ended), None)
        if oldest not in decoded:
            oldest = None
        events = []
    return found


# ------------------------------------------------------------ one model


@pytest.mark.long
def test_32_ceilings_far_above_a_budget_for_four_all_end_and_little_is_recomputed(
    llama_path: Path,
) -> None:
    budget = budget_for(llama_path, rows=4, tokens=CONTEXT_TOKENS)
    submits = [ceiling(n, llama_path, HUGE_TOKENS) for n in range(REQUESTS)]
    steps = run(llama_path, budget=budget, arrivals=at_once(submits)).steps
    ends = ends_of(steps)
    assert set(ends) == set(range(REQUESTS))
    for end in ends.values():
        assert isinstance(end, Finished)
        assert end.reason == "length"
        assert end.prompt_tokens + end.completion_tokens == CONTEXT_TOKENS
    assert max(step.stats.running for step in steps) > REQUESTS / 2
    assert paused(steps, submits) == []
    assert 0 < preempted(steps) < REQUESTS
    assert 0 < recomputed(steps) <= MOST_RECOMPUTED * REQUESTS * CONTEXT_TOKENS


arrivals_of_one_model = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.one_of(st.none(), st.integers(1, SHORT_CONTEXT), st.just(HUGE_TOKENS)),
        st.integers(1, SHORT_CONTEXT - 1),
    ),
    min_size=2,
    max_size=5,
)


@pytest.mark.long
@settings(max_examples=25)
@given(arrivals_of_one_model, st.integers(SHORT_CONTEXT, 3 * SHORT_CONTEXT))
def test_the_oldest_running_request_of_a_model_is_never_preempted(
    llama_path: Path, drawn: list[tuple[int, int | None, int]], tokens: int
) -> None:
    drawn.sort(key=lambda each: each[0])
    submits = [ceiling(n, llama_path, most, prompt) for n, (_, most, prompt) in enumerate(drawn)]
    arrivals = [
        (step * STEP_S, submit) for (step, _, _), submit in zip(drawn, submits, strict=True)
    ]
    budget = budget_for(llama_path, rows=1, tokens=tokens)
    steps = run(llama_path, budget=budget, arrivals=arrivals, context=SHORT_CONTEXT).steps
    assert all(isinstance(end, Finished) for end in ends_of(steps).values())
    assert set(ends_of(steps)) == {submit.id for submit in submits}
    assert paused(steps, submits) == []


def test_a_younger_request_that_grows_first_yields_to_the_oldest_one(llama_path: Path) -> None:
    submits = [ceiling(1, llama_path, 100), ceiling(2, llama_path, 100, 90)]
    budget = budget_for(llama_path, rows=2, tokens=104)
    steps = run(llama_path, budget=budget, arrivals=at_once(submits)).steps
    assert preempted(steps) == 1
    assert paused(steps, submits) == []
    assert list(ends_of(steps)) == [1, 2]


def test_an_answer_is_the_same_after_it_was_preempted_for_memory(llama_path: Path) -> None:
    submits = [ceiling(n, llama_path, 100) for n in range(6)]
    steps = run(
        llama_path,
        budget=budget_for(llama_path, rows=2, tokens=CONTEXT_TOKENS // 4),
        arrivals=at_once(submits),
    ).steps
    assert preempted(steps)
    whole = run(llama_path, budget=1 << 40, arrivals=at_once(submits)).steps
    assert preempted(whole) == recomputed(whole) == 0
    for submit in submits:
        assert tokens_of(steps, submit.id) == tokens_of(whole, submit.id)


def test_the_times_and_tokens_of_a_preempted_answer_add_up(llama_path: Path) -> None:
    submits = [ceiling(n, llama_path, 100) for n in range(6)]
    budget = budget_for(llama_path, rows=2, tokens=128)
    simulation = run(llama_path, budget=budget, arrivals=at_once(submits))
    steps, total_ms = simulation.steps, (simulation.now - IDLE_RETURN_S) * MS_PER_S
    ends = [end for end in ends_of(steps).values() if isinstance(end, Finished)]
    assert len(ends) == len(submits)
    times_ms = [end.queue_ms + end.prefill_ms + end.decode_ms for end in ends]
    assert max(times_ms) <= total_ms < max(times_ms) + 10 * STEP_S * MS_PER_S
    # The wait after a preemption is a wait for the device.
    assert max(end.queue_ms for end in ends) > total_ms / 8
    assert all(end.decode_ms > 98 * STEP_S * MS_PER_S / 2 for end in ends)
    planned = sum(end.prompt_tokens - end.cached_tokens - end.use.shared_tokens for end in ends)
    # The last token of a preempted answer is computed with what is computed again.
    again = recomputed(steps) + preempted(steps)
    assert sum(end.use.computed_tokens for end in ends) == planned + again
    assert preempted(steps)


@pytest.mark.long
def test_answers_whose_worst_case_is_the_whole_memory_still_run_together_after_a_shortage(
    llama_path: Path,
) -> None:
    budget = budget_for(llama_path, rows=1, tokens=CONTEXT_TOKENS)
    submits = [ceiling(n, llama_path, None) for n in range(6)]
    steps = run(llama_path, budget=budget, arrivals=at_once(submits)).steps
    assert len(ends_of(steps)) == len(submits)
    first_end = next(n for n, step in enumerate(steps) if ends_of([step]))
    assert preempted(steps[:first_end])
    assert max(step.stats.running for step in steps[first_end + 1 :]) > 2
    assert paused(steps, submits) == []


def test_a_ceiling_above_the_memory_is_cut_to_it(llama_path: Path) -> None:
    budget = budget_for(llama_path, rows=1, tokens=128)
    steps = run(llama_path, budget=budget, arrivals=at_once([ceiling(1, llama_path, 200)])).steps
    end = end_of(steps, 1)
    assert isinstance(end, Finished)
    assert (end.reason, end.prompt_tokens + end.completion_tokens) == ("length", 128)
    assert end.at_context


def test_without_a_ceiling_such_a_request_is_rejected_with_what_the_memory_holds(
    llama_path: Path,
) -> None:
    submit = strict(1, llama_path, 200)
    budget = budget_for(llama_path, rows=1, tokens=128)
    [end] = ends_of(run(llama_path, budget=budget, arrivals=at_once([submit])).steps).values()
    assert isinstance(end, Rejected)
    assert end.code == "context_length_exceeded"
    assert end.message.startswith("This model's maximum context length is 128 tokens ")


@pytest.mark.parametrize(("prompt_tokens", "min_tokens"), [(128, 0), (150, 0), (100, 40)])
def test_a_prompt_without_room_for_the_least_answer_is_rejected(
    llama_path: Path, prompt_tokens: int, min_tokens: int
) -> None:
    sampling = msgspec.structs.replace(GREEDY, min_tokens=min_tokens)
    submit = msgspec.structs.replace(ceiling(1, llama_path, 200, prompt_tokens), sampling=sampling)
    budget = budget_for(llama_path, rows=1, tokens=128)
    [end] = ends_of(run(llama_path, budget=budget, arrivals=at_once([submit])).steps).values()
    assert isinstance(end, Rejected)
    assert end.code == "context_length_exceeded"
    assert f"at least {max(min_tokens, 1)} in the answer" in end.message


def test_the_limit_of_a_resumed_answer_is_the_same(llama_path: Path) -> None:
    submit = ceiling(1, llama_path, HUGE_TOKENS, 20)
    context = CONTEXT_TOKENS // 2
    for budget in (1 << 40, budget_for(llama_path, rows=1, tokens=context // 2)):
        steps = run(llama_path, budget=budget, arrivals=at_once([submit]), context=context).steps
        whole = tokens_of(steps, 1)
        for cut in (1, len(whole) // 2, len(whole) - 1):
            resumed = msgspec.structs.replace(submit, resume=whole[:cut])
            arrivals = at_once([resumed])
            steps = run(llama_path, budget=budget, arrivals=arrivals, context=context).steps
            assert whole[:cut] + tokens_of(steps, 1) == whole
            end = end_of(steps, 1)
            assert isinstance(end, Finished)
            assert (end.reason, end.completion_tokens) == ("length", len(whole))


def test_a_resumed_answer_that_waits_long_for_memory_is_not_rejected(llama_path: Path) -> None:
    budget = budget_for(llama_path, rows=1, tokens=CONTEXT_TOKENS)
    # It needs no ceiling to hold the whole memory for longer than a request may wait.
    first = strict(1, llama_path, 250)
    resumed = msgspec.structs.replace(ceiling(2, llama_path, 20), resume=[301, 302])
    new = ceiling(3, llama_path, 20)
    arrivals = [(0.0, first), (0.0, resumed), (0.0, new)]
    pool = make_pool(llama_path, budget=budget, preload=[llama_path.name])
    simulation = Simulation(pool, wait_s=5.0, measures_memory=False)
    simulation.run(arrivals)
    assert isinstance(end_of(simulation.steps, 2), Finished)
    rejected = end_of(simulation.steps, 3)
    assert isinstance(rejected, Rejected)
    assert rejected.code == "insufficient_memory"


def test_a_request_that_reserved_its_whole_answer_is_preempted_last(llama_path: Path) -> None:
    submits = [
        ceiling(1, llama_path, 100),
        strict(2, llama_path, 60),
        ceiling(3, llama_path, 100),
    ]
    budget = budget_for(llama_path, rows=2, tokens=104)
    steps = run(llama_path, budget=budget, arrivals=at_once(submits)).steps
    assert preempted(steps) == 1
    assert paused(steps, submits) == []
    assert list(ends_of(steps)) == [2, 1, 3]


# ------------------------------------------------------------ several models


def test_of_two_models_whose_only_answers_compete_the_older_one_goes_on(
    llama_path: Path, qwen_path: Path
) -> None:
    # The younger one reserves its whole answer, so that the older one is short first.
    older, younger = ceiling(1, qwen_path, 200), strict(2, llama_path, 180)
    needed = budget_for(qwen_path, rows=1, tokens=CONTEXT_TOKENS)
    budget = needed + weight_bytes(llama_path)
    steps = run(
        llama_path, qwen_path, budget=budget, arrivals=[(0.0, older), (STEP_S, younger)]
    ).steps
    assert paused(steps, [older]) == []
    assert preempted(steps) >= 1
    assert all(isinstance(end, Finished) for end in ends_of(steps).values())
    assert list(ends_of(steps)) == [1, 2]


def test_a_model_evicted_while_younger_requests_wait_for_it_is_loaded_again(
    llama_path: Path, qwen_path: Path
) -> None:
    # The first request holds the only place and all free memory. The second is older than the
    # third, and needs more.
    budget = budget_for(llama_path, rows=1, tokens=64) + weight_bytes(qwen_path)
    submits = [
        strict(1, llama_path, 60),
        ceiling(2, llama_path, 8, 80),
        ceiling(3, qwen_path, 40),
    ]
    arrivals = [(10 * n * STEP_S, submit) for n, submit in enumerate(submits)]
    simulation = run(
        llama_path, qwen_path, budget=budget, arrivals=arrivals, pinned=False, places=1
    )
    statuses = [
        state.status
        for change in simulation.state_changes
        for state in change.models
        if state.id == qwen_path.name
    ]
    assert "loaded" in statuses[statuses.index("unloaded") :]
    assert list(ends_of(simulation.steps)) == [1, 2, 3]
    assert all(isinstance(end, Finished) for end in ends_of(simulation.steps).values())


two_models = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.booleans(),
        st.booleans(),
        st.integers(1, SHORT_CONTEXT // 2),
        st.integers(1, SHORT_CONTEXT // 2),
    ),
    min_size=2,
    max_size=5,
)


@pytest.mark.long
@settings(max_examples=25)
@given(two_models, st.integers(SHORT_CONTEXT, 3 * SHORT_CONTEXT))
def test_the_oldest_request_of_all_models_always_goes_on(
    llama_path: Path,
    qwen_path: Path,
    drawn: list[tuple[int, bool, bool, int, int]],
    tokens: int,
) -> None:
    drawn.sort(key=lambda each: each[0])
    submits = [
        msgspec.structs.replace(
            ceiling(n, llama_path if is_llama else qwen_path, most, prompt), ceiling=is_ceiling
        )
        for n, (_, is_llama, is_ceiling, most, prompt) in enumerate(drawn)
    ]
    arrivals = [(each[0] * STEP_S, submit) for each, submit in zip(drawn, submits, strict=True)]
    budget = budget_for(llama_path, rows=1, tokens=tokens) + weight_bytes(qwen_path)
    steps = run(
        llama_path, qwen_path, budget=budget, arrivals=arrivals, context=SHORT_CONTEXT
    ).steps
    assert all(isinstance(end, Finished) for end in ends_of(steps).values())
    assert len(ends_of(steps)) == len(submits)
    assert paused(steps, submits) == []
