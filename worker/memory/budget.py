"""Device memory: the budget of all that is held for models, and what is in use.

In use is the larger of MLX's account and the process's footprint: the first misses
what lies outside MLX, the second what the device holds outside the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from protocol.messages import Device, Memory
from worker.memory.footprint import read_footprint, return_freed

# Of a machine's memory where the device recommends no working set.
RAM_SHARE = 0.75
# Past it caches and idle models go; at the budget itself nothing more is admitted.
SOFT_MARK = 0.9
# What prefill may take beside all that is held, where the setting leaves it open.
PREFILL_SHARE = 1 / 32

Measure = Callable[[], Memory]


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes: all that may be held, what the process holds without models, what prefill may take."""

    limit: int
    base: int
    prefill: int

    @property
    def for_models(self) -> int:
        """What weights, KV caches and prompt caches may take together."""
        return max(0, self.limit - self.base - self.prefill)

    @property
    def soft_mark(self) -> int:
        """Past it what can be spared is given up."""
        return int(self.limit * SOFT_MARK)


UNLIMITED = Budget(limit=1 << 62, base=0, prefill=0)


def make_budget(limit_bytes: int, prefill_bytes: int, device: Device) -> Budget:
    """The budget of the settings, 0 being the device's own; called before any model is loaded."""
    limit = limit_bytes or recommended_bytes(device)
    return Budget(limit, read_footprint(), prefill_bytes or int(limit * PREFILL_SHARE))


def recommended_bytes(device: Device) -> int:
    """The working set that Metal recommends, else a share of the memory there is."""
    recommended = mx.device_info().get("max_recommended_working_set_size")
    return int(recommended) if recommended else int(device.memory_bytes * RAM_SHARE)


def set_limits(memory_limit_bytes: int, cache_limit_bytes: int, wired_limit_bytes: int = 0) -> None:
    """Apply MLX's allocation limits; 0 leaves MLX's default, and nothing wired.

    A non-empty residency set can panic macOS (mlx issue 3186), so it must be asked for.
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


def used(memory: Memory) -> int:
    """What counts against the budget."""
    return max(memory.active, memory.footprint)


def release() -> None:
    """Give what MLX and the C library keep of freed memory back to the system."""
    mx.clear_cache()
    return_freed()
