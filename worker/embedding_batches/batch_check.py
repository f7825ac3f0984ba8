"""Whether a model's texts may share a call: compared at its load with each text alone."""

from __future__ import annotations

import random

import mlx.core as mx
import numpy as np

from protocol.batching import BatchRules
from worker.embedding_batches.engine import Compute, Values
from worker.engine.batches.model_errors import MODEL_ERRORS, describe_error

LENGTHS = (5, 17, 16, 9)
# The largest difference of a value, as a part of the largest value. Weights in half precision
# differ by about a thousandth.
TOLERANCE = 0.02
ALONE = "each text is computed alone"


def check_batches(compute: Compute, vocabulary_size: int, max_tokens: int) -> BatchRules:
    """The rules of a model, from the results of texts of unlike lengths together and alone.

    Raises:
        RuntimeError: the device failed.
    """
    draw = random.Random(0)
    lengths = [min(length, max_tokens) for length in LENGTHS]
    rows = [[draw.randrange(vocabulary_size) for _ in range(length)] for length in lengths]
    try:
        together = run(compute, rows)
        alone = np.concatenate([run(compute, [row]) for row in rows])
    except MODEL_ERRORS as error:
        return BatchRules("none", findings=[f"{ALONE}: {describe_error(error)}"])
    if not np.isfinite(alone).all():
        # Its requests fail, each with a reason.
        return BatchRules()
    difference = float(np.abs(together - alone).max() / max(float(np.abs(alone).max()), 1e-12))
    if difference <= TOLERANCE:
        return BatchRules()
    return BatchRules("none", findings=[f"{ALONE}: in a batch values differ by {difference:.2g}"])


def run(compute: Compute, rows: list[list[int]]) -> Values:
    """The results of these rows in one call."""
    return np.array(compute(rows)[-1].astype(mx.float32))
