"""Sets the memory that Metal keeps wired: once, after the models are loaded."""

from __future__ import annotations

import platform

import mlx.core as mx

from protocol.units import format_bytes
from protocol.wiring import AUTO, NO_METAL, WiredLimit, Wiring, choose_wiring
from worker.memory.device import recommended_working_set


def check_wired_limit(limit: WiredLimit) -> None:
    """Refuse a limit that MLX would refuse after the models are loaded.

    Raises:
        ValueError: it is larger than the working set that Metal recommends.
    """
    recommended = recommended_working_set()
    if limit != AUTO and recommended and limit > recommended:
        raise ValueError(
            f"wired_limit_bytes {limit} is more than the {recommended} bytes "
            f"({format_bytes(recommended)}) that Metal recommends as working set"
        )


def apply_wired_limit(limit: WiredLimit, weight_bytes: int) -> Wiring | None:
    """Set the limit for these weights, and tell what is wired; None for a limit of 0.

    A non-empty residency set can panic macOS (mlx issue 3186), so the limit is not changed again.
    """
    if limit == 0:
        return None
    recommended = recommended_working_set()
    if limit == AUTO:
        wiring = choose_wiring(weight_bytes, recommended, platform.mac_ver()[0])
    else:
        wiring = Wiring(limit, "wired_limit_bytes") if recommended else Wiring(0, NO_METAL)
    if wiring.limit_bytes:
        mx.set_wired_limit(wiring.limit_bytes)
    return wiring
