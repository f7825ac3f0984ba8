"""Whether a model's texts may share a call, and be computed in slices of their tokens: compared at
its load with each text alone and whole."""

from __future__ import annotations

import random
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from protocol.batching import BatchRules
from worker.embedding_batches.engine import Compute, Values
from worker.engine.batches.model_errors import MODEL_ERRORS, describe_error

LENGTHS = (5, 17, 16, 9)
SLICED_LENGTH = 32
# The largest difference of a value, as a part of the largest value. Weights in half precision
# differ by about a thousandth.
TOLERANCE = 0.02
ALONE = "each text is computed alone"
WHOLE = "texts are computed in no slices"
# So that the least slices are made.
LEAST_TOKENS = 0.0


def check_batches(compute: Compute, vocabulary_size: int, max_tokens: int) -> BatchRules:
    """The rules of a model, from the results of texts of unlike lengths together and alone.

    Raises:
        RuntimeError: the device failed.
    """
    draw = random.Random(0)
    rows = [draw_row(draw, vocabulary_size, min(length, max_tokens)) for length in LENGTHS]
    long = draw_row(draw, vocabulary_size, min(SLICED_LENGTH, max_tokens))

    def alone() -> Values:
        return np.concatenate([run(compute, [row]) for row in rows])

    batched = compare(alone, lambda: run(compute, rows))
    sliced = compare(lambda: run(compute, [long]), lambda: run(compute, [long], LEAST_TOKENS))
    findings = [f"{ALONE}: in a batch {batched}"] if batched else []
    findings += [f"{WHOLE}: in slices {sliced}"] if sliced else []
    return BatchRules("none" if batched else "full", slices_prompts=not sliced, findings=findings)


def compare(expected: Callable[[], Values], found: Callable[[], Values]) -> str | None:
    """What is not right of values; None where they are equal within the tolerance."""
    try:
        others, some = expected(), found()
    except MODEL_ERRORS as error:
        return describe_error(error)
    if not np.isfinite(others).all():
        # Its requests fail, each with a reason.
        return None
    difference = float(np.abs(some - others).max() / max(float(np.abs(others).max()), 1e-12))
    return None if difference <= TOLERANCE else f"values differ by {difference:.2g}"


def draw_row(draw: random.Random, vocabulary_size: int, length: int) -> list[int]:
    """A row of this many token ids."""
    return [draw.randrange(vocabulary_size) for _ in range(length)]


def run(compute: Compute, rows: list[list[int]], part_tokens: float | None = None) -> Values:
    """The results of these rows in one call."""
    return np.array(compute(rows, part_tokens)[-1].astype(mx.float32))
