"""What the prompt cache counts for a model in parts: the same on all ranks."""

from __future__ import annotations

import mlx.nn as nn

from protocol.quantisation import KVBits
from worker.cache.prefix_cache import PrefixCache
from worker.memory.kv_cost import costs_of_parts


def count_parts(model: nn.Module, cache: PrefixCache | None, name: str, kv_bits: KVBits) -> None:
    """Let the prompt cache count a node of this model by the largest part, not by its own arrays.

    So all ranks evict the same nodes. Tensor-parallel parts have arrays of the same sizes.
    """
    costs = costs_of_parts(model)
    if cache is not None and costs is not None:
        cache.count_by(name, costs.caches[kv_bits].node_cost)
