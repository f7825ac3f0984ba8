"""The device MLX computes on: how it is set up, and what it is."""

from __future__ import annotations

import contextlib
import os
import sys

import mlx.core as mx

from protocol.messages import Device


def prepare_device() -> None:
    """Set MLX up for serving on the default device.

    On the CPU MLX (0.32.4) compiles a fused function by running the system's C++
    compiler: half a second in the middle of the streams, for functions that are no
    quicker for it. On Metal fused functions stay.

    There a thread of MLX's own takes each operation as it is put up, and where cores are few
    Linux lets it push aside the thread that puts them up, at every one of them. As batch work
    neither pushes the other aside (sched(7)).
    """
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()
        schedule_as_batch()


def schedule_as_batch() -> None:
    """Let this thread, and those that it starts from now on, push no other aside."""
    if sys.platform == "linux":
        # A sandbox may forbid it, and all works without.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


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
