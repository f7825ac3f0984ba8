"""Device memory: the budget for models, and the memory in use.

The memory in use is the larger of MLX's active memory and the process's footprint. MLX
does not count memory allocated outside MLX; the footprint does not count device memory
outside the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from protocol.stats import Device, Memory
from worker.memory.footprint import read_footprint, trim_heap

# Share of the machine's memory, where the device recommends no working set.
RAM_SHARE = 0.75
# Share of the budget above which the prompt cache shrinks and idle models are evicted; at the
# budget itself no request is admitted.
SOFT_LIMIT_SHARE = 0.9
# Share of the budget kept free for prefill, unless `prefill_reserve_bytes` is set.
PREFILL_SHARE = 1 / 32

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


def make_budget(limit_bytes: int, prefill_bytes: int, device: Device) -> Budget:
    """The budget for these settings; 0 means the default. Called before any model is loaded."""
    limit = limit_bytes or recommended_bytes(device)
    return Budget(limit, read_footprint(), prefill_bytes or int(limit * PREFILL_SHARE))


def recommended_bytes(device: Device) -> int:
    """The working set that Metal recommends, else a share of the device's memory."""
    recommended = mx.device_info().get("max_recommended_working_set_size")
    return int(recommended) if recommended else int(device.memory_bytes * RAM_SHARE)


def set_limits(memory_limit_bytes: int, cache_limit_bytes: int, wired_limit_bytes: int = 0) -> None:
    """Set MLX's allocation limits; 0 keeps MLX's default, which wires nothing.

    A non-empty residency set can panic macOS (mlx issue 3186), so wiring is off by default.
    """
    if memory_limit_bytes:
        mx.set_memory_limit(memory_limit_bytes)
    if cache_limit_bytes:
        mx.set_cache_limit(cache_limit_bytes)
    if wired_limit_bytes and mx.metal.is_available():
        mx.set_wired_limit(wired_limit_bytes)


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
    mx.clear_cache()
    trim_heap()
