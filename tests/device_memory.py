"""What the device holds, without what other tests of this process have left to be freed."""

from __future__ import annotations

import gc

import mlx.core as mx


def settled_bytes() -> int:
    """The bytes in use once all garbage is collected and nothing is computed any more.

    Nothing of them is freed at a later moment.
    """
    gc.collect()
    mx.synchronize()
    return mx.get_active_memory()
