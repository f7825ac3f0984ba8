"""A model whose results differ in a batch or in slices is computed as it is right."""

from __future__ import annotations

from collections import deque

import mlx.core as mx
import pytest

from worker.embedding_batches.batch_check import check_batches

Rows = list[list[int]]


class Model:
    """Sums ids; `wrong_in` a batch or slices it gives something else, or fails."""

    def __init__(self, wrong_in: str = "", *, fails: bool = False) -> None:
        self._wrong_in = wrong_in
        self._fails = fails

    def compute(self, rows: Rows, part_tokens: float | None = None) -> deque[mx.array]:
        is_wrong = (self._wrong_in == "batch" and len(rows) > 1) or (
            self._wrong_in == "slices" and part_tokens is not None
        )
        if is_wrong and self._fails:
            raise ValueError("no such shape")
        values = [[float(sum(row)) + (1e5 if is_wrong else 0.0)] for row in rows]
        return deque([mx.array(values)])


def test_a_model_that_is_right_is_batched_and_sliced() -> None:
    rules = check_batches(Model().compute, 100, 512)
    assert (rules.batching, rules.slices_prompts, rules.findings) == ("full", True, [])


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_is_wrong_in_a_batch_gets_texts_alone(fails: bool) -> None:
    rules = check_batches(Model("batch", fails=fails).compute, 100, 512)
    assert (rules.batching, rules.slices_prompts) == ("none", True)
    [finding] = rules.findings
    assert "computed alone" in finding
    assert ("no such shape" if fails else "differ") in finding


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_is_wrong_in_slices_gets_texts_whole(fails: bool) -> None:
    rules = check_batches(Model("slices", fails=fails).compute, 100, 512)
    assert (rules.batching, rules.slices_prompts) == ("full", False)
    [finding] = rules.findings
    assert "no slices" in finding
    assert ("no such shape" if fails else "differ") in finding
