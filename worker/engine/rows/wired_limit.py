"""Keeps mlx-lm's generator from setting the wired limit of Metal's memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

WIRED_LIMIT_SETTER = "maybe_set_recommended_wired_limit"


@contextmanager
def wired_limit_unchanged(generator: type) -> Iterator[None]:
    """Keep the constructor of `generator`, mlx-lm's `BatchGenerator`, from setting the limit.

    In mlx-lm 0.32.2 the constructor sets the limit to all memory that the device
    recommends, without a switch, and `close` restores the earlier limit. A non-empty
    residency set can panic macOS (mlx issue 3186). So the function that the
    constructor calls is replaced, within the block, by one that sets nothing; `close`
    then has nothing to restore. Remove this when mlx-lm has a switch.
    """
    module = sys.modules[generator.__module__]
    setter = getattr(module, WIRED_LIMIT_SETTER)
    setattr(module, WIRED_LIMIT_SETTER, lambda: None)
    try:
        yield
    finally:
        setattr(module, WIRED_LIMIT_SETTER, setter)
