"""The scores that a slice writes are those that MLX's memory shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from tests.device_memory import settled_bytes
from tests.models import families
from worker.engine.attention_cost import AttentionCost, can_fuse, probe_attention
from worker.memory.kv_cost import probe

HEADS, HEAD_DIM = 16, 256
CONTEXT, TOKENS = 2048, 256


@pytest.fixture(scope="module")
def wide_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose attention scores are larger than all that else it computes."""
    sizes = {"num_attention_heads": HEADS, "num_key_value_heads": 1, "head_dim": HEAD_DIM}
    family = dataclasses.replace(families.LLAMA, sizes={**families.LLAMA.sizes, **sizes})
    return families.make(family, tmp_path_factory.mktemp("wide") / "wide")


def test_the_cost_of_a_slice_is_the_memory_that_it_takes(wide_heads: Path) -> None:
    model, _ = load_model(wide_heads)
    cost = probe_attention(model, probe(model, TOKENS))
    assert cost == AttentionCost(HEADS * 4)
    cache = make_prompt_cache(model)
    for layer in cache:
        # What is kept does not matter here, and would take long to compute.
        layer.update_and_fetch(*[mx.zeros((1, 1, CONTEXT, HEAD_DIM)) for _ in "kv"])
    mx.eval([layer.state for layer in cache])
    mx.clear_cache()
    before = settled_bytes()
    mx.reset_peak_memory()
    model(mx.zeros((1, TOKENS), dtype=mx.int32), cache=cache)
    mx.eval([layer.state for layer in cache])
    taken, expected = mx.get_peak_memory() - before, cost.slice_bytes(1, TOKENS, CONTEXT)
    assert expected < taken < 2 * expected


def test_each_family_is_probed(model_paths: dict[str, Path]) -> None:
    for path in model_paths.values():
        model, _ = load_model(path)
        assert probe_attention(model, probe(model, 64)).score_bytes == 4 * 4


def test_a_probe_leaves_mlxs_attention_as_it_was(llama_path: Path) -> None:
    attend = mx.fast.scaled_dot_product_attention
    model, _ = load_model(llama_path)
    probe_attention(model, probe(model, 64))
    assert mx.fast.scaled_dot_product_attention is attend


@pytest.mark.parametrize(
    ("head_dim", "value_dim", "fused"),
    [
        (64, 64, True),
        (80, 80, True),
        (128, 128, True),
        (96, 96, False),
        (192, 128, False),
        (192, 192, False),
        (256, 256, False),
    ],
)
def test_on_metal_only_some_head_dimensions_are_fused(
    monkeypatch: pytest.MonkeyPatch, head_dim: int, value_dim: int, fused: bool
) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    queries, values = mx.zeros((1, 4, 16, head_dim)), mx.zeros((1, 2, 16, value_dim))
    assert can_fuse(queries, values, "causal") is fused
    assert can_fuse(queries, values, mx.zeros((1, 1, 16, 16))) is fused
    assert not can_fuse(queries, values, mx.zeros((1, 4, 16, 16)))


def test_without_metal_nothing_is_fused() -> None:
    if not mx.metal.is_available():
        assert not can_fuse(mx.zeros((1, 4, 16, 64)), mx.zeros((1, 4, 16, 64)), "causal")
