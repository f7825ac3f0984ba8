"""The device that MLX computes on: its setup and its description."""

from __future__ import annotations

import contextlib
import os
import sys

import mlx.core as mx

from protocol.stats import Device


def prepare_device() -> None:
    """Set up MLX for serving on the default device. On Metal nothing is changed.

    On the CPU, MLX (0.32.4) compiles a fused function by running the system's C++
    compiler. That blocks the streams for half a second, and the compiled functions are not
    faster.

    On the CPU, a thread of MLX executes each operation as soon as it is queued. On few
    cores, Linux preempts the thread that queues the operations at every one of them. Under
    batch scheduling neither thread preempts the other (sched(7)).
    """
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()
        schedule_as_batch()


def schedule_as_batch() -> None:
    """Put this thread, and those that it starts later, under batch scheduling (Linux only)."""
    if sys.platform == "linux":
        # A sandbox may forbid it; the worker also runs without.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def describe_device() -> Device:
    """The default device: its name, its backend and its memory."""
    info = mx.device_info()
    backend = "Metal" if mx.metal.is_available() else mx.default_device().type.name.upper()
    return Device(
        name=str(info.get("device_name", "unknown")),
        backend=backend,
        memory_bytes=int(info.get("memory_size", 0)) or system_memory_bytes(),
        recommended_bytes=recommended_working_set(),
    )


def recommended_working_set() -> int:
    """The working set that Metal recommends; 0 on a device without one."""
    return int(mx.device_info().get("max_recommended_working_set_size", 0))


def system_memory_bytes() -> int:
    """The machine's memory, which a device without memory of its own uses."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
