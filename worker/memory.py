"""Device memory: the limits, and MLX's own account of what is in use."""

from __future__ import annotations

import mlx.core as mx

from protocol.messages import Memory


def set_limits(memory_limit_bytes: int, cache_limit_bytes: int) -> None:
    """Apply MLX's allocation limits; 0 leaves MLX's default."""
    if memory_limit_bytes:
        mx.set_memory_limit(memory_limit_bytes)
    if cache_limit_bytes:
        mx.set_cache_limit(cache_limit_bytes)


def measure(limit_bytes: int) -> Memory:
    """MLX's active, peak and cached bytes now."""
    return Memory(
        active=mx.get_active_memory(),
        peak=mx.get_peak_memory(),
        cache=mx.get_cache_memory(),
        limit=limit_bytes,
    )
