"""Which weights Metal keeps wired with `wired_limit_bytes = "auto"`, and why.

Without wiring, macOS may compress or swap weights that are near its limit, and decoding then
takes many times as long. A non-empty residency set can panic macOS where other memory is wired
too (mlx issue 3186): so weights alone are wired, once after loading, and only where they are near
the limit.
"""

from __future__ import annotations

from typing import Literal

from protocol.structs import Data
from protocol.units import format_bytes

AUTO: Literal["auto"] = "auto"
NO_METAL = "only Metal has a wired limit"
# The share of the recommended working set above which weights are wired.
NEAR_LIMIT_SHARE = 0.6
FIRST_MACOS = 15

WiredLimit = int | Literal["auto"]


class Wiring(Data, frozen=True):
    """What is wired, 0 for nothing, and the reason in words."""

    limit_bytes: int
    reason: str


def choose_wiring(weight_bytes: int, recommended_bytes: int, macos: str) -> Wiring:
    """The wiring of these weights.

    `recommended_bytes` is 0 on a device without Metal. `macos` is the version, empty on others.
    """
    if not recommended_bytes or not macos:
        return Wiring(0, NO_METAL)
    if int(macos.partition(".")[0]) < FIRST_MACOS:
        return Wiring(0, f"macOS {macos} has no residency sets: {FIRST_MACOS} or newer is needed")
    shares = (
        f"the weights ({format_bytes(weight_bytes)}) are {weight_bytes / recommended_bytes:.0%} of "
        f"the recommended working set ({format_bytes(recommended_bytes)})"
    )
    if weight_bytes <= NEAR_LIMIT_SHARE * recommended_bytes:
        return Wiring(0, f"{shares}, not more than {NEAR_LIMIT_SHARE:.0%}")
    return Wiring(min(weight_bytes, recommended_bytes), shares)


def describe_wiring(wiring: Wiring) -> str:
    """The wiring in words."""
    amount = format_bytes(wiring.limit_bytes) if wiring.limit_bytes else "nothing"
    return f"{amount}: {wiring.reason}" if wiring.reason else amount
