"""The measured memory is what MLX reports."""

from __future__ import annotations

import mlx.core as mx

from worker.memory.budget import measure


def test_a_live_array_counts_as_active_memory() -> None:
    before = measure(0).active
    array = mx.zeros((1024, 1024))
    mx.eval(array)
    held = measure(7)
    assert held.active - before >= array.nbytes
    assert held.peak >= held.active
    assert held.limit == 7
    del array
    assert measure(0).active < held.active
