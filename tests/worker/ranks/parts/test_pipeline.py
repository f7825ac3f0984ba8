"""Each rank of a pipeline has its layers, and counts as all others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, make_prompt_cache

from tests.models.architectures.making import build, make, write
from tests.models.architectures.scaling import deepen
from tests.models.architectures.table import config_of
from tests.worker.ranks.parts.places import make_group
from worker.cache.prefix_cache import PrefixCache
from worker.engine.batches.decode_groups import PaddingCost
from worker.memory.budget import own_weight_bytes_of, weight_bytes_of
from worker.memory.kv_cost import costs_of_parts, probe
from worker.models.weight_loader import build_modules
from worker.ranks.parts.cache_costs import count_parts
from worker.ranks.parts.choice import build_part
from worker.ranks.parts.refusal import NotSplittable

RANKS = (0, 1)
HYBRID_LAYERS = 6
STEP_TOKENS = 64


@pytest.fixture(scope="module")
def hybrid_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of recurrent layers and of attention in turn, one more on rank 1 than on rank 0."""
    config = deepen(config_of("qwen3_next"), HYBRID_LAYERS)
    return write(tmp_path_factory.mktemp("models") / "qwen3_next", build(config), config)


@pytest.fixture(scope="module")
def stages(hybrid_path: Path) -> list[nn.Module]:
    """Both ranks' parts of it."""
    return [build_stage(hybrid_path, 2, rank) for rank in RANKS]


def build_stage(path: Path, size: int, rank: int) -> nn.Module:
    """A rank's layers."""
    return build_part(path, make_group(size, rank), trusted=False, setting="pipeline").model


def test_each_rank_has_the_weights_of_its_layers_and_rank_0_the_last(
    hybrid_path: Path, stages: list[nn.Module]
) -> None:
    layers = [layers_of(stage) for stage in stages]
    whole = build_modules(hybrid_path, trusted=False)
    assert layers == [{3, 4, 5}, {0, 1, 2}]
    assert all(own_weight_bytes_of(stage) < weight_bytes_of(whole) for stage in stages)


def layers_of(model: nn.Module) -> set[int]:
    """The numbers of the layers that have weights."""
    names = [name.split(".") for name, _ in tree_flatten(model.parameters())]
    return {int(name[2]) for name in names if name[1] == "layers"}


def test_all_ranks_count_memory_and_padding_alike(stages: list[nn.Module]) -> None:
    costs = [probe(stage, STEP_TOKENS) for stage in stages]
    assert costs[0].batch_bytes(3, 1000) == costs[1].batch_bytes(3, 1000)
    padding = [
        PaddingCost(cost, weight_bytes_of(stage)) for cost, stage in zip(costs, stages, strict=True)
    ]
    assert padding[0].padding_bytes([10, 900]) == padding[1].padding_bytes([10, 900])
    assert padding[0].pass_bytes == padding[1].pass_bytes


def test_what_counts_is_the_largest_part(hybrid_path: Path, stages: list[nn.Module]) -> None:
    # Rank 0 has two of the three layers of attention.
    attention = [sum(type(c) is KVCache for c in make_prompt_cache(stage)) for stage in stages]
    assert attention == [2, 1]
    whole = probe(build_modules(hybrid_path, trusted=False), STEP_TOKENS)
    of_part = probe(stages[0], STEP_TOKENS)
    assert whole.batch_bytes(1, 1 << 16) // of_part.batch_bytes(1, 1 << 16) == 1
    assert weight_bytes_of(stages[0]) == max(map(own_weight_bytes_of, stages))


def test_all_ranks_keep_and_evict_the_same_prefixes(stages: list[nn.Module]) -> None:
    held = [fill_cache(stage) for stage in stages]
    assert held[0] == held[1]
    assert 0 < len(held[0][1]) < 8


def fill_cache(stage: nn.Module) -> tuple[int, list[int]]:
    """The bytes of a cache that prompts of unlike lengths have filled, and which ones are left."""
    costs = costs_of_parts(stage)
    assert costs is not None
    node_cost = costs.caches[0].node_cost
    cache = PrefixCache(4 * (node_cost.slices_bytes(60) + node_cost.states_bytes(60)))
    count_parts(stage, cache, "model", 0)
    prompts = [[number, *range(100, 120 + 10 * number)] for number in range(8)]
    for prompt in prompts:
        cache.insert("model", prompt, make_computed(stage, len(prompt)))
    return cache.nbytes, [
        prompt[0] for prompt in prompts if cache.find("model", [*prompt, 1]).length == len(prompt)
    ]


def make_computed(stage: nn.Module, tokens: int) -> list[Any]:
    """The caches of a stage's layers after so many tokens, with values of no matter."""
    caches: list[Any] = make_prompt_cache(stage)
    for cache in caches:
        if isinstance(cache, KVCache):
            cache.update_and_fetch(mx.zeros((1, 2, tokens, 16)), mx.zeros((1, 2, tokens, 16)))
        else:
            cache[0], cache[1] = mx.zeros((1, 3, 64)), mx.zeros((1, 4, 32, 32))
    return caches


def test_a_model_is_refused_where_a_rank_would_lack_a_kind_of_cache(tmp_path: Path) -> None:
    path = make("qwen3_next", tmp_path / "qwen3_next")
    with pytest.raises(NotSplittable, match="rank 0 would have no layer with a ArraysCache"):
        build_stage(path, 4, 0)


def test_a_model_is_refused_that_has_fewer_layers_than_there_are_ranks(tmp_path: Path) -> None:
    path = make("qwen3_moe", tmp_path / "qwen3_moe")
    with pytest.raises(NotSplittable, match="its 2 layers cannot be distributed over 3 ranks"):
        build_stage(path, 3, 0)


def test_a_larger_model_around_a_pipeline_makes_caches_for_its_own_layers(tmp_path: Path) -> None:
    path = make("qwen3_vl_moe", tmp_path / "qwen3_vl_moe")
    assert [len(make_prompt_cache(build_stage(path, 2, rank))) for rank in RANKS] == [1, 1]
