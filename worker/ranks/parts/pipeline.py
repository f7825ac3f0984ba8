"""The layers of a model that this rank has of a pipeline, by mlx-lm's `pipeline`.

mlx-lm (0.32.2) gives the last rank the first layers, and rank 0 the last ones. A pass is sent from
rank to rank; then all get the result of rank 0, and draw the same tokens from it. What it does in
a step of a batch is right as long as all ranks compute batches of the same shape, in the same
order. So what a rank decides may not depend on its own layers: each rank needs every kind of
cache that the model has, and all count with the largest part's bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import CacheList, KVCache, make_prompt_cache

from worker.memory.kv_cost import COSTS_NAME, PartCosts
from worker.ranks.parts.refusal import NotSplittable
from worker.ranks.parts.stages import Stage, measure_stage

Kind = str | frozenset["Kind"]


@dataclass(frozen=True, slots=True)
class Place:
    """A rank of a group, as mlx-lm's `pipeline` asks for it; nothing is sent."""

    of_rank: int
    of_size: int

    def rank(self) -> int:
        """The rank."""
        return self.of_rank

    def size(self) -> int:
        """The number of ranks."""
        return self.of_size


def find_pipeline(model: nn.Module) -> Any:
    """The module whose layers mlx-lm distributes, also where it lies in a larger one; or None."""
    modules = (module for _, module in model.named_modules())
    return next((each for each in modules if hasattr(each, "pipeline_rank")), None)


def keep_stage(model: nn.Module, group: mx.distributed.Group) -> None:
    """Reduce a model to the layers of this rank.

    Raises:
        NotSplittable: its layers cannot be distributed over so many ranks.
    """
    pipeline, size = find_pipeline(model), group.size()
    layers = list(pipeline.layers)
    if len(layers) < size:
        raise NotSplittable(f"its {len(layers)} layers cannot be distributed over {size} ranks")
    caches = make_prompt_cache(model)
    make_caches_of_stage(model, pipeline, caches)
    stages: list[Stage] = []
    try:
        for rank in range(size):
            pipeline.layers = list(layers)
            pipeline.pipeline(Place(rank, size))
            compare_kinds(caches, make_prompt_cache(model), rank)
            stages.append(measure_stage(model))
        compare_stages(stages, len(caches))
        pipeline.layers = layers
        pipeline.pipeline(group)
    except (ValueError, AssertionError) as error:
        if isinstance(error, NotSplittable):
            raise
        raise NotSplittable(f"it cannot be split over {size} ranks: {error}") from error
    weight_bytes = [stage.weight_bytes for stage in stages]
    setattr(model, COSTS_NAME, PartCosts.largest(weight_bytes, [each.caches for each in stages]))


def make_caches_of_stage(model: nn.Module, pipeline: Any, caches: Sequence[Any]) -> None:
    """Let a model make caches for the layers of its stage alone.

    The larger models of mlx-lm (0.32.2) around some language models count all layers, as Kimi-VL's
    and Qwen3-VL-MoE's.
    """
    if not hasattr(model, "make_cache") and all(type(cache) is KVCache for cache in caches):
        model.make_cache = lambda: [KVCache() for _ in pipeline.pipeline_layers]


def kind_of(cache: Any) -> Kind:
    """What decides how a cache is kept, cut and merged."""
    if type(cache) is CacheList:
        return frozenset(map(kind_of, cache.caches))
    return type(cache).__name__


def compare_kinds(all_caches: Sequence[Any], caches: Sequence[Any], rank: int) -> None:
    """Compare the kinds of caches of a rank with those of the model.

    Raises:
        NotSplittable: the rank has not all: it would decide otherwise than others.
    """
    missing = {*map(kind_of, all_caches)} - {*map(kind_of, caches)}
    if missing:
        names = ", ".join(sorted(map(str, missing)))
        raise NotSplittable(f"rank {rank} would have no layer with a {names}, and others have")


def compare_stages(stages: Sequence[Stage], caches: int) -> None:
    """Compare what each rank sends with what the one before it expects, and count the caches.

    Raises:
        NotSplittable: they differ: a rank would read other values than were sent.
    """
    if sum(stage.made_caches for stage in stages) != caches:
        raise NotSplittable("mlx-lm makes caches for layers that a rank does not have")
    for rank in range(1, len(stages)):
        sent, expected = stages[rank].sent, stages[rank - 1].received
        if sent != expected:
            raise NotSplittable(
                f"rank {rank} sends {sent} where rank {rank - 1} expects {expected}"
            )
