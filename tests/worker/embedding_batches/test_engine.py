"""Texts share calls of similar lengths, requests take turns, and each gets its own results."""

from __future__ import annotations

from collections import deque
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.embedding_batches.engine import EmbeddingEngine
from worker.embedding_batches.text_budget import TextBudget
from worker.engine.prefill_budget import PrefillLimits

Rows = list[list[int]]


class Model:
    """Sums the ids of each row, in parts; it fails on a row that begins with `fails_on`."""

    def __init__(self, parts: int = 1, fails_on: int = -1) -> None:
        self.calls: list[Rows] = []
        self.part_tokens: list[float | None] = []
        self._parts = parts
        self._fails_on = fails_on

    def compute(self, rows: Rows, part_tokens: float | None = None) -> deque[mx.array]:
        self.calls.append(rows)
        self.part_tokens.append(part_tokens)
        if any(row[0] == self._fails_on for row in rows):
            raise ValueError("no such row")
        return deque(mx.array([[sum(row), len(row)] for row in rows]) for _ in range(self._parts))


def make_engine(
    model: Model, *, rows: int = 64, batched: bool = True, sliced: bool = True
) -> EmbeddingEngine:
    limits = PrefillLimits(max_tokens=512, max_rows=rows, slice_s=1e9)
    budget = TextBudget(limits, lambda rows, tokens: 0)
    # As if a speed were measured.
    budget.record(1e-9, 1, 1)
    return EmbeddingEngine(model.compute, budget, batched=batched, sliced=sliced)


def step(engine: EmbeddingEngine, longest_s: float = float("inf")) -> dict[int, dict[int, Any]]:
    """The results of one step, by request and index."""
    found: dict[int, dict[int, Any]] = {}
    for computed in engine.step(lambda reckoned_s: None, longest_s):
        values = dict(zip(computed.indices, computed.values.tolist(), strict=True))
        found.setdefault(computed.id, {}).update(values)
    return found


def run(engine: EmbeddingEngine, ids: list[int]) -> dict[int, dict[int, Any]]:
    """All results, once every request is computed."""
    found: dict[int, dict[int, Any]] = {id: {} for id in ids}
    left = set(ids)
    while left:
        for id, values in step(engine).items():
            found[id] |= values
        done = {id for id in left if not engine.left(id)}
        engine.remove(done)
        left -= done
    return found


@given(st.lists(st.lists(st.integers(1, 600), min_size=1, max_size=9), min_size=1, max_size=5))
def test_every_text_gets_its_own_result_once(requests: list[list[int]]) -> None:
    model = Model()
    engine = make_engine(model)
    rows = {
        id: {index: [id + index] * length for index, length in enumerate(lengths)}
        for id, lengths in enumerate(requests)
    }
    for id, own in rows.items():
        engine.insert(id, own)
    assert run(engine, list(rows)) == {
        id: {index: [sum(row), len(row)] for index, row in own.items()} for id, own in rows.items()
    }
    computed = sum(len(call) for call in model.calls)
    assert computed == sum(map(len, requests))


def test_texts_of_a_call_are_about_as_long() -> None:
    model = Model()
    engine = make_engine(model)
    engine.insert(1, {index: [1] * length for index, length in enumerate([500, 5, 490, 9, 100])})
    run(engine, [1])
    assert [sorted(map(len, call)) for call in model.calls] == [[5, 9], [100], [490, 500]]


def test_a_short_request_comes_before_a_list_that_came_first() -> None:
    model = Model()
    engine = make_engine(model, rows=1)
    engine.insert(1, {index: [1] * 40 for index in range(200)})
    engine.insert(2, {0: [2] * 300})
    step(engine)
    assert [row[0] for row in model.calls[0]] == [2]


def test_a_list_is_not_put_off_without_end() -> None:
    model = Model()
    engine = make_engine(model)
    engine.insert(1, {0: [1] * 400})
    for id in range(2, 8):
        engine.insert(id, {0: [id] * 5})
        step(engine)
        engine.remove([id])
    assert any(row[0] == 1 for call in model.calls for row in call)


def test_a_request_that_is_alone_shares_no_call() -> None:
    model = Model()
    engine = make_engine(model)
    engine.insert(1, {0: [1] * 9}, alone=True)
    engine.insert(2, {0: [2] * 9})
    run(engine, [1, 2])
    assert [len(call) for call in model.calls] == [1, 1]


def test_a_model_without_batches_gets_one_text_a_call() -> None:
    model = Model()
    engine = make_engine(model, batched=False)
    engine.insert(1, {index: [1] * 9 for index in range(3)})
    run(engine, [1])
    assert [len(call) for call in model.calls] == [1, 1, 1]


def test_a_call_is_computed_in_parts_and_dropped_with_its_last_request() -> None:
    model = Model(parts=3)
    engine = make_engine(model)
    engine.insert(1, {0: [1] * 9})
    assert step(engine, longest_s=0.0) == {}
    engine.insert(2, {0: [2] * 5})
    # The call goes on, though the new request is shorter.
    assert step(engine, longest_s=0.0) == {}
    assert len(model.calls) == 1
    engine.remove([1])
    assert run(engine, [2]) == {2: {0: [10, 5]}}
    assert len(model.calls) == 2


def test_parts_are_slices_beside_decoding_rows_alone_and_where_the_model_allows() -> None:
    for sliced in (True, False):
        model = Model()
        engine = make_engine(model, sliced=sliced)
        engine.insert(1, {0: [1] * 9})
        step(engine)
        engine.insert(2, {0: [1] * 10})
        # The time of two tokens, at the speed that was measured.
        step(engine, longest_s=2e-9)
        [alone, beside] = model.part_tokens
        assert alone is None
        assert (beside is not None) == sliced


def test_results_of_a_request_that_was_cancelled_in_its_call_are_dropped() -> None:
    model = Model(parts=2)
    engine = make_engine(model)
    engine.insert(1, {0: [1] * 9})
    engine.insert(2, {0: [2] * 9})
    step(engine, longest_s=0.0)
    engine.remove([1])
    assert run(engine, [2]) == {2: {0: [18, 9]}}
    assert len(engine) == 0


def test_a_call_that_the_model_fails_names_its_requests() -> None:
    model = Model(fails_on=2)
    engine = make_engine(model)
    engine.insert(1, {0: [1] * 9})
    engine.insert(2, {0: [2] * 9})
    assert step(engine) == {}
    failed = engine.take_failed()
    assert sorted(row.id for row in failed) == [1, 2]
    assert failed[0].reason == "ValueError: no such row"
    assert engine.take_failed() == []


@pytest.mark.parametrize("reserve", [0, 10**4])
def test_the_memory_bounds_a_text_alone_and_a_call(reserve: int) -> None:
    limits = PrefillLimits(max_tokens=512, max_rows=8, slice_s=1e9, reserve_bytes=reserve)
    budget = TextBudget(limits, lambda rows, tokens: rows * tokens * tokens)
    budget.record(1e-9, 1, 1)
    assert budget.longest(512) == (100 if reserve else 512)
    assert budget.plan([50] * 9, 1e9) == (4 if reserve else 9)


def test_the_time_bounds_a_call_that_has_one_text_at_least() -> None:
    budget = TextBudget(PrefillLimits(max_tokens=512), lambda rows, tokens: 0)
    # Before anything is measured, a call is short.
    assert budget.plan([20, 20, 20], 1.0) == 1
    budget.record(1.0, 1, 100)
    assert budget.plan([50, 50, 50], 1.0) == 2
    assert budget.plan([400, 400], 1.0) == 1
    assert budget.expect(2, 50) == 1.0
