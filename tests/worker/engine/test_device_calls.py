"""How often the host waits for the device: per step, leave, join and slice, whatever the layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from protocol.messages import Sampling
from tests.worker.engine.drafted_rows import make_engine
from worker.cache.disk_store import DiskStore
from worker.cache.prefix_cache import PrefixCache
from worker.drafts.drafter import Drafter
from worker.engine.batches.speculation.draft_plan import MAX_DRAFT_TOKENS
from worker.engine.engine import Engine, Token
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.rows import row_generator
from worker.engine.sampler import make_row

GREEDY = Sampling(seed=0, temperature=0.0)
PROMPT = list(range(3, 43))
MANY_TOKENS = 400
KEY = "0" * 32
MODULE_CALLS = ("eval", "async_eval", "clear_cache", "synchronize")
ARRAY_CALLS = ("tolist", "item")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The calls that wait for the device, or that put work up for it."""
    counter: Counter[str] = Counter()
    for place, names in ((mx, MODULE_CALLS), (mx.array, ARRAY_CALLS)):
        for name in names:
            monkeypatch.setattr(place, name, counted(getattr(place, name), name, counter))
    return counter


@pytest.fixture
def drafting(llama_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Four rows that are drafted: each token of their answers is certain."""
    # Slices, and so when each row joins, do not depend on the time.
    monkeypatch.setattr(row_generator, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    engine = make_engine(llama_path, speculates=True)
    sampling = Sampling(seed=0, temperature=0.0, logit_bias={300: 1000.0})
    for id in range(4):
        prompt = PROMPT[id:]
        drafter = Drafter(prompt, (), [300] * MANY_TOKENS)
        engine.insert(id, prompt, MANY_TOKENS, make_row(sampling, drafter=drafter))
    while count_accepted(engine.step()) < MAX_DRAFT_TOKENS * 4:
        pass
    return engine


def count_accepted(tokens: Sequence[Token]) -> int:
    """How many of these tokens were drafted."""
    return sum(token.drafted.accepted for token in tokens)


@pytest.fixture(params=["without a prompt cache", "with a prompt cache", "quantised"])
def engine(
    llama_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Engine:
    """Four rows that decode; slices do not depend on the time."""
    monkeypatch.setattr(row_generator, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    model, _ = load_model(llama_path)
    cached = request.param != "without a prompt cache"
    engine = Engine(
        model,
        max_running=8,
        prefill=PrefillLimits(max_tokens=64),
        prompt_cache=PrefixCache(1 << 30) if cached else None,
        kv_bits=8 if request.param == "quantised" else 0,
    )
    for id in range(4):
        engine.insert(id, PROMPT[id:], MANY_TOKENS, make_row(GREEDY))
    while len(engine.step()) < 4:
        pass
    return engine


def test_a_step_reads_once(engine: Engine, calls: Counter[str]) -> None:
    engine.step()
    assert calls == {"async_eval": 1, "tolist": 1}


def test_a_drafted_pass_reads_what_it_begins_with_and_what_it_draws(
    drafting: Engine, calls: Counter[str]
) -> None:
    for _ in range(3):
        assert count_accepted(step(drafting, calls)) == MAX_DRAFT_TOKENS * 4
        assert calls == {"async_eval": 1, "tolist": 2}


def test_a_drafted_pass_beside_a_penalty_is_put_up_once_more(
    drafting: Engine, calls: Counter[str]
) -> None:
    penalty = Sampling(seed=0, temperature=0.0, presence_penalty=0.5)
    drafting.insert(9, PROMPT[::-1], MANY_TOKENS, make_row(penalty))
    tokens = drafting.step()
    while not (any(token.id == 9 for token in tokens) and count_accepted(tokens)):
        tokens = step(drafting, calls)
    assert calls == {"async_eval": 2, "tolist": 2}


def test_a_leave_reads_nothing(engine: Engine, calls: Counter[str]) -> None:
    engine.remove([1])
    assert set(calls) <= {"async_eval"}
    assert calls["async_eval"] <= 1


def test_an_end_reads_nothing_more(engine: Engine, calls: Counter[str]) -> None:
    engine.insert(9, PROMPT[::-1], 1, make_row(GREEDY))
    while not any(token.id == 9 for token in step(engine, calls)):
        pass
    assert calls["tolist"] == 1
    assert set(calls) <= {"async_eval", "tolist"}


def test_a_join_waits_for_its_slices_alone(engine: Engine, calls: Counter[str]) -> None:
    engine.insert(9, [*PROMPT[::-1]] * 4, MANY_TOKENS, make_row(GREEDY))
    steps = slices = 0
    while True:
        steps += 1
        tokens = engine.step()
        slices += bool(engine.progress)
        if any(token.id == 9 for token in tokens):
            break
    # One wait for each slice; the last one of a prompt reports no progress.
    assert 2 <= calls["eval"] <= slices + 1
    # Each step reads its tokens, the first of the row that joins among them.
    assert calls["tolist"] == steps
    # Each step and each slice is put up, and a cached prompt.
    assert calls["async_eval"] <= steps + calls["eval"] + 1
    assert set(calls) == {"async_eval", "eval", "tolist"}


def test_a_row_that_joins_takes_no_pass_of_its_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    model = type(engine.model)
    compute = model.__call__

    def count(self: Any, inputs: mx.array, *args: Any, **settings: Any) -> Any:
        if inputs.shape[1] == 1:
            widths.append(inputs.shape[0])
        return compute(self, inputs, *args, **settings)

    monkeypatch.setattr(model, "__call__", count)
    engine.insert(9, PROMPT[::-1], MANY_TOKENS, make_row(GREEDY))
    steps = 1
    while not any(token.id == 9 for token in engine.step()):
        steps += 1
    assert len(widths) == steps
    assert sorted(widths) == widths
    assert 4 in widths
    assert widths[-1] > 4


def test_tokens_leave_before_the_slice_is_waited_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    evaluate = mx.eval

    def wait(*arrays: Any) -> None:
        order.append("wait")
        evaluate(*arrays)

    monkeypatch.setattr(mx, "eval", wait)
    engine.insert(9, [*PROMPT[::-1]] * 4, MANY_TOKENS, make_row(GREEDY))
    left = engine.step(deliver=lambda tokens: order.append(f"{len(tokens)} tokens"))
    assert engine.progress
    assert (order, left) == (["4 tokens", "wait"], [])
    while engine.progress:
        engine.step()
    assert len(engine.step(deliver=lambda tokens: order.append("late"))) >= 4
    assert "late" not in order


def test_a_row_may_leave_while_a_slice_is_computed(engine: Engine) -> None:
    engine.insert(9, [*PROMPT[::-1]] * 4, MANY_TOKENS, make_row(GREEDY))
    engine.step(deliver=lambda tokens: engine.remove([tokens[0].id]))
    assert len(engine) == 4
    while not any(token.id == 9 for token in engine.step()):
        pass
    assert len(engine) == 4


def test_a_span_is_written_with_one_wait(
    llama_path: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    model, _ = load_model(llama_path)
    store = DiskStore(tmp_path, 1 << 30)
    cache = PrefixCache(1 << 30, store)
    engine = Engine(
        model, max_running=2, prefill=PrefillLimits(max_tokens=64), prompt_cache=cache, name=KEY
    )
    engine.insert(0, PROMPT, 2, make_row(GREEDY))
    while len(engine):
        engine.step()
    layers = cache.find(KEY, PROMPT).layers
    cache.insert(KEY, PROMPT[:0:-1], layers)
    calls.clear()
    cache.write()
    assert calls == {"eval": 1}
    store.close()


def step(engine: Engine, calls: Counter[str]) -> list[Any]:
    """One step, of whose calls only the last one's are counted."""
    calls.clear()
    return engine.step()


def counted(call: Any, name: str, counter: Counter[str]) -> Any:
    """The same call, counted."""

    def count(*args: Any, **named: Any) -> Any:
        counter[name] += 1
        return call(*args, **named)

    return count
