"""Device memory: the limits, and MLX's own account of what is in use."""

from __future__ import annotations

import os

import mlx.core as mx

from protocol.messages import Device, Memory


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


def describe_device() -> Device:
    """The default device by name, with the memory it works in."""
    info = mx.device_info()
    backend = "Metal" if mx.metal.is_available() else mx.default_device().type.name.upper()
    return Device(
        name=str(info.get("device_name", "unknown")),
        backend=backend,
        memory_bytes=int(info.get("memory_size", 0)) or system_memory_bytes(),
    )


def system_memory_bytes() -> int:
    """The machine's memory: what a device without its own works in."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
