"""The libraries that are preloaded into the worker on Linux, where MLX's own are slow."""

from __future__ import annotations

import ctypes.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.stats import Device
from service.config.scalars import SettingsError

AUTO = "auto"
OFF = "off"
BLAS = "openblas"
# mimalloc (2.0.9) is nearly as fast but does not return freed memory: after 424 MB of arrays
# were freed it still held 424 MB, jemalloc (5.3.0) 23 MB.
ALLOCATOR = "jemalloc"


@dataclass(frozen=True, slots=True)
class Preloads:
    """The preloaded libraries; None preloads none of that kind.

    `blas`: the MLX wheel for Linux (0.32.4) contains the reference BLAS; OpenBLAS makes its
    matrix products 20 to 40 times faster. Remove this when the wheel contains a fast BLAS.

    `allocator`: on the CPU, MLX (0.32.4) allocates its graph on one thread and frees it on
    another, so that both contend for the locks of glibc's malloc (2.36). The measurements
    are in tests/load/README.md.
    """

    blas: str | None = None
    allocator: str | None = None

    def apply_to(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ` with these libraries in front of those that it already preloads."""
        paths = filter(None, [self.blas, self.allocator, environ.get("LD_PRELOAD")])
        preloaded = {"LD_PRELOAD": libraries} if (libraries := " ".join(paths)) else {}
        # One thread: the matrix products of decoding are too small to be split.
        threads = {"OPENBLAS_NUM_THREADS": "1"} if self.blas else {}
        return {**threads, **environ, **preloaded}

    def __str__(self) -> str:
        return ", ".join(filter(None, [self.blas, self.allocator])) or "nothing"


def find_preloads(blas: str, allocator: str) -> Preloads:
    """The libraries for two settings: each is "auto" (the system's), "off", a path or a name.

    Raises:
        SettingsError: there is no file at a path, which the loader would only complain of.
    """
    if not on_linux():
        return Preloads()
    for name, setting in ("blas", blas), ("allocator", allocator):
        if "/" in setting and not Path(setting).is_file():
            raise SettingsError(f"{name}: there is no file {setting}")
    return Preloads(blas=find_library(blas, BLAS), allocator=find_library(allocator, ALLOCATOR))


def describe_preloads(device: Device, preloads: Preloads) -> str | None:
    """The preloaded libraries as text, with a warning if BLAS is slow; None for other devices."""
    if device.backend != "CPU" or not on_linux():
        return None
    slow = "" if preloads.blas else ": MLX's own BLAS is slow, install OpenBLAS"
    return f"{preloads}{slow}"


def on_linux() -> bool:
    """Whether this is Linux, where MLX's own libraries are slow."""
    return sys.platform.startswith("linux")


def find_library(setting: str, name: str) -> str | None:
    """The library for a setting; for "auto" the system's library `name`, if it is installed."""
    if setting == OFF:
        return None
    return ctypes.util.find_library(name) if setting == AUTO else setting
