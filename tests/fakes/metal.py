"""A Mac's Metal as MLX shows it: the tables of devices, and recorders of the calls that set limits.

`device_info` has the fields that mlxd reads. The recommended sizes are those that others have
reported of such machines (16 GB: two thirds; 48 and 96 GB: three quarters; larger: 84 %).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import pytest

GIB = 1 << 30


def device_info(name: str, architecture: str, memory: int, recommended: int) -> dict[str, Any]:
    """What `mx.device_info` returns on Metal."""
    return {
        "device_name": name,
        "architecture": architecture,
        "memory_size": memory,
        "max_recommended_working_set_size": recommended,
        "max_buffer_length": memory // 2,
        "resource_limit": 499000,
    }


DEVICES = {
    "M1": device_info("Apple M1", "applegpu_g13g", 16 * GIB, 11_453_251_584),
    "M2 Max": device_info("Apple M2 Max", "applegpu_g14s", 96 * GIB, 72 * GIB),
    "M4 Pro": device_info("Apple M4 Pro", "applegpu_g16s", 48 * GIB, 36 * GIB),
    "M3 Ultra": device_info("Apple M3 Ultra", "applegpu_g15d", 256 * GIB, 230_897_441_800),
}


@dataclass
class Metal:
    """The fake; `calls` are the recorded ones in their order, as a name and the argument."""

    info: dict[str, Any]
    cache_bytes: int = 0
    calls: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def recommended_bytes(self) -> int:
        """The recommended working set."""
        return int(self.info["max_recommended_working_set_size"])

    def names(self) -> list[str]:
        """The names of the calls."""
        return [name for name, _ in self.calls]

    def set_wired_limit(self, limit: int) -> int:
        """As MLX: more than the recommended working set is an error."""
        self.calls.append(("set_wired_limit", limit))
        if limit > self.recommended_bytes:
            raise ValueError("[metal::set_wired_limit] Setting a wired limit larger than ...")
        return 0

    def set_memory_limit(self, limit: int) -> int:
        """Recorded."""
        self.calls.append(("set_memory_limit", limit))
        return 0

    def set_cache_limit(self, limit: int) -> int:
        """Recorded."""
        self.calls.append(("set_cache_limit", limit))
        return 0

    def synchronize(self, stream: object = None) -> None:
        """Recorded."""
        self.calls.append(("synchronize", stream))

    def clear_cache(self) -> None:
        """Recorded; nothing is cached any more."""
        self.calls.append(("clear_cache", None))
        self.cache_bytes = 0


RECORDED = ("set_wired_limit", "set_memory_limit", "set_cache_limit", "synchronize", "clear_cache")


def fake_metal(monkeypatch: pytest.MonkeyPatch, name: str, macos: str = "15.5") -> Metal:
    """Make this machine look like a Mac with that chip and version, until the test ends."""
    metal = Metal(DEVICES[name])
    monkeypatch.setattr(platform, "mac_ver", lambda: (macos, ("", "", ""), "arm64"))
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx, "device_info", lambda *_: metal.info)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: metal.cache_bytes)
    for call in RECORDED:
        monkeypatch.setattr(mx, call, getattr(metal, call))
    return metal
