"""The measured memory is what MLX reports; what MLX keeps is bounded, and freed in order."""

from __future__ import annotations

import mlx.core as mx
import pytest

from tests.device_memory import settled_bytes
from tests.fakes.metal import DEVICES, GIB, fake_metal
from worker.engine.attention_cost import AttentionCost
from worker.engine.prefill_budget import PrefillBudget, PrefillLimits, Prompt
from worker.memory.budget import (
    MAX_CACHE_BYTES,
    MIN_CLEARED_BYTES,
    make_budget,
    measure,
    return_freed_memory,
    set_limits,
)
from worker.memory.device import describe_device


def test_a_live_array_counts_as_active_memory() -> None:
    before = settled_bytes()
    array = mx.zeros((1024, 1024))
    mx.eval(array)
    held = measure(7)
    assert held.active - before >= array.nbytes
    assert held.peak >= held.active
    assert held.limit == 7
    del array
    assert measure(0).active < held.active


@pytest.mark.parametrize("name", DEVICES)
def test_on_metal_the_budget_is_the_recommended_working_set_and_the_cache_is_bounded(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    metal = fake_metal(monkeypatch, name)
    device = describe_device()
    budget = make_budget(0, 0, device)
    assert (device.backend, device.name) == ("Metal", f"Apple {name}")
    assert budget.limit == device.recommended_bytes == metal.recommended_bytes
    set_limits(0, 0, budget)
    expected = min(MAX_CACHE_BYTES, metal.recommended_bytes // 16)
    assert metal.calls == [("set_cache_limit", expected)]
    assert expected < metal.recommended_bytes / 15


def test_limits_in_bytes_are_set_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    metal = fake_metal(monkeypatch, "M1")
    set_limits(8 * GIB, 3 * GIB, make_budget(8 * GIB, 0, describe_device()))
    assert metal.calls == [("set_memory_limit", 8 * GIB), ("set_cache_limit", 3 * GIB)]


def test_a_large_cache_is_freed_after_the_step_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    metal = fake_metal(monkeypatch, "M4 Pro")
    metal.cache_bytes = MIN_CLEARED_BYTES
    return_freed_memory()
    assert metal.names() == ["synchronize", "clear_cache"]


def test_a_small_cache_is_kept_without_waiting_for_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metal = fake_metal(monkeypatch, "M4 Pro")
    metal.cache_bytes = MIN_CLEARED_BYTES - 1
    return_freed_memory()
    assert metal.calls == []


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("context", [0, 8192, 32768, 131072])
def test_scores_that_are_not_fused_fit_the_reserve_of_each_device(
    monkeypatch: pytest.MonkeyPatch, name: str, context: int
) -> None:
    fake_metal(monkeypatch, name)
    reserve = make_budget(0, 0, describe_device()).prefill
    # 24 heads of 256 in 16 bits.
    cost = AttentionCost(24 * 2)
    limits = PrefillLimits(max_tokens=512, max_rows=8, reserve_bytes=reserve)
    plan = PrefillBudget(limits, cost).plan(0, [Prompt(context, 4096)] * 8)
    assert plan.rows >= 1
    assert cost.slice_bytes(plan.rows, plan.tokens, context) <= reserve
