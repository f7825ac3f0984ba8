"""The estimate of a call's memory is at least what it takes, and not many times as much."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from tests.device_memory import settled_bytes
from tests.models.embedding.samples import SAMPLES
from tests.worker.embedding.opening import compute, open_folder, settings_of, write_sample

# Rows and their length; fewer tokens take less than the allocator's pages.
CALLS = ((64, 8), (16, 32), (4, 64), (64, 64))
# A call takes less where the host is slow to queue work: buffers are free before others are needed.
MOST_TIMES = 8


@pytest.mark.parametrize("name", SAMPLES)
def test_a_call_takes_at_most_what_it_is_estimated_to(name: str, tmp_path: Path) -> None:
    model = open_folder(write_sample(name, tmp_path), settings_of(name)).model
    mx.eval(model.arrays())
    for rows, length in CALLS:
        mx.clear_cache()
        mx.reset_peak_memory()
        before = settled_bytes()
        compute(model, [[7] * length] * rows)
        taken = mx.get_peak_memory() - before
        assert taken <= model.cost(rows, length) <= MOST_TIMES * taken, (rows, length)


def test_the_estimate_grows_with_the_square_of_the_length(tmp_path: Path) -> None:
    model = open_folder(write_sample("bert-mean", tmp_path)).model
    assert model.cost(1, 4000) > 14 * model.cost(1, 1000)
    assert model.cost(8, 1000) == 8 * model.cost(1, 1000)
