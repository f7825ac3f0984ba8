"""The libraries that the worker is started with on Linux, where MLX's own are slow."""

from __future__ import annotations

import ctypes.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from protocol.messages import Device

AUTO = "auto"
OFF = "off"
BLAS = "openblas"
# mimalloc (2.0.9) is nearly as quick, and keeps what is freed: 424 MB of arrays took it 424 MB
# after they were gone, jemalloc (5.3.0) 23 MB.
ALLOCATOR = "jemalloc"


@dataclass(frozen=True, slots=True)
class Preloads:
    """What is preloaded; None is as the system has it.

    `blas`: the MLX wheel for Linux (0.32.4) carries the reference BLAS; OpenBLAS makes its
    matrix products 20 to 40 times faster. This can go when the wheel brings its own.

    `allocator`: on the CPU MLX (0.32.4) makes its graph on one thread and frees it on another,
    which glibc's malloc (2.36) has them quarrel about: tests/load/README.md has what it costs.
    """

    blas: str | None = None
    allocator: str | None = None

    def put_into(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment of a program that is to have them, before what was preloaded anyway."""
        libraries = filter(None, [self.blas, self.allocator, environ.get("LD_PRELOAD")])
        preloaded = {"LD_PRELOAD": words} if (words := " ".join(libraries)) else {}
        # One thread: the products of decoding are too small to share.
        threads = {"OPENBLAS_NUM_THREADS": "1"} if self.blas else {}
        return {**threads, **environ, **preloaded}

    def __str__(self) -> str:
        return ", ".join(filter(None, [self.blas, self.allocator])) or "nothing"


def find_preloads(blas: str, allocator: str) -> Preloads:
    """Each is "auto" (what the system has), "off", or the path of a library."""
    if not on_linux():
        return Preloads()
    return Preloads(find_library(blas, BLAS), find_library(allocator, ALLOCATOR))


def describe_preloads(device: Device, preloads: Preloads) -> str | None:
    """What the worker has besides, and lacks; None where nothing is preloaded for the device."""
    if device.backend != "CPU" or not on_linux():
        return None
    slow = "" if preloads.blas else ": MLX's own BLAS is slow, install OpenBLAS"
    return f"{preloads}{slow}"


def on_linux() -> bool:
    """Whether this is where MLX's own libraries are slow."""
    return sys.platform.startswith("linux")


def find_library(wanted: str, name: str) -> str | None:
    """The library that is wanted; with "auto" the one of this name, where there is one."""
    if wanted == OFF:
        return None
    return ctypes.util.find_library(name) if wanted == AUTO else wanted
