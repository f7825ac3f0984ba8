"""Device memory: the budget for models, and the memory in use.

The memory in use is the larger of MLX's active memory and the process's footprint. MLX
does not count memory allocated outside MLX; the footprint does not count device memory
outside the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from protocol.stats import Device, Memory
from protocol.units import GIB, MIB
from worker.memory.device import recommended_working_set
from worker.memory.footprint import read_footprint, trim_heap
from worker.memory.kv_cost import costs_of_parts

# Share of the machine's memory, where the device recommends no working set.
RAM_SHARE = 0.75
# Share of the budget above which the prompt cache shrinks and idle models are evicted; at the
# budget itself no request is admitted.
SOFT_LIMIT_SHARE = 0.9
# Share of the budget kept free for prefill, and for the copies of batches that grow, unless
# `prefill_reserve_bytes` is set.
PREFILL_SHARE = 1 / 32
# The freed buffers that MLX keeps for reuse, unless `cache_limit_bytes` is set. MLX's own limit is
# nearly all memory: buffers of sizes that are not needed again would fill it.
MAX_CACHE_BYTES, CACHE_SHARE = 2 * GIB, 1 / 16
# Fewer cached bytes are not worth the wait for the device.
MIN_CLEARED_BYTES = 16 * MIB

Measure = Callable[[], Memory]


@dataclass(frozen=True, slots=True)
class Budget:
    """One process's budget in bytes.

    `limit` is all that may be used, `base` what the process uses without models, `prefill`
    what is kept free for prefill.
    """

    limit: int
    base: int
    prefill: int

    @property
    def for_models(self) -> int:
        """The bytes for weights, KV caches and the prompt cache together."""
        return max(0, self.limit - self.base - self.prefill)

    @property
    def soft_limit(self) -> int:
        """The bytes in use above which caches shrink and idle models are evicted."""
        return int(self.limit * SOFT_LIMIT_SHARE)


UNLIMITED = Budget(limit=1 << 62, base=0, prefill=0)


def make_budget(limit_bytes: int, prefill_bytes: int, device: Device, shares: int = 1) -> Budget:
    """The budget for these settings; 0 means the default. Called before any model is loaded.

    So many processes share the default of the machine.
    """
    limit = limit_bytes or recommended_bytes(device) // shares
    return Budget(limit, read_footprint(), prefill_bytes or int(limit * PREFILL_SHARE))


def recommended_bytes(device: Device) -> int:
    """The working set that Metal recommends, else a share of the device's memory."""
    return recommended_working_set() or int(device.memory_bytes * RAM_SHARE)


def set_limits(memory_limit_bytes: int, cache_limit_bytes: int, budget: Budget) -> None:
    """Set MLX's allocation limits; 0 keeps its limit of memory, and bounds its cache by default."""
    if memory_limit_bytes:
        mx.set_memory_limit(memory_limit_bytes)
    mx.set_cache_limit(cache_limit_bytes or min(MAX_CACHE_BYTES, int(budget.limit * CACHE_SHARE)))


def measure(limit_bytes: int) -> Memory:
    """MLX's active, peak and cached bytes, and the process's footprint, now."""
    return Memory(
        active=mx.get_active_memory(),
        peak=mx.get_peak_memory(),
        cache=mx.get_cache_memory(),
        limit=limit_bytes,
        footprint=read_footprint(),
    )


def used_bytes(memory: Memory) -> int:
    """The memory in use, which counts against the budget."""
    return max(memory.active, memory.footprint)


def return_freed_memory() -> None:
    """Return freed memory that MLX and the C library keep to the system."""
    clear_buffer_cache()
    trim_heap()


def clear_buffer_cache() -> None:
    """Return the freed buffers that MLX keeps, if they are many.

    The device may still compute the next step. MLX (0.32.4) does not keep the buffers of that
    step alive for Metal, so they are not freed before it has ended.
    """
    if mx.get_cache_memory() >= MIN_CLEARED_BYTES:
        mx.synchronize()
        mx.clear_cache()


def weight_bytes_of(module: nn.Module) -> int:
    """The bytes of all weights of a module; of a model in parts, those of the largest part."""
    costs = costs_of_parts(module)
    return own_weight_bytes_of(module) if costs is None else costs.weight_bytes


def own_weight_bytes_of(module: nn.Module) -> int:
    """The bytes of the weights that this process has of a module."""
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))
