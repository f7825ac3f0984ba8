"""Random weights with which greedy text varies instead of repeating one token.

Usual initial weights are so small that only the last token determines the next one, and
the text soon repeats. With these larger weights every part of the network affects the
next token: an answer has many different tokens, and any change of its context changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]

MATRIX_DEVIATION = 2.5  # over the square root of the number of inputs
INPUT = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"
QUERY_NORM = "q_norm.weight"
# Without it, attention with normalised queries and keys is almost the same for all positions.
QUERY_SCALE = 4.0
RESIDUAL_WRITERS = ("o_proj.weight", "down_proj.weight")
BOOST = 1.3  # factor of the deviation of a token's logit: the token is several times as frequent
LINK_INPUT = 8.0
LINK_OUTPUT = 100.0


def draw(model: nn.Module, *, embedding_deviation: float, seed: int) -> Weights:
    """Random weights for each parameter of `model`, by name."""
    generator = np.random.default_rng(seed)
    shapes = {name: value.shape for name, value in tree_flatten(model.parameters())}

    def values(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if len(shape) == 1:
            return np.full(shape, QUERY_SCALE if name.endswith(QUERY_NORM) else 1.0, np.float32)
        matrix_deviation = MATRIX_DEVIATION / float(np.sqrt(shape[-1]))
        deviation = embedding_deviation if name == INPUT else matrix_deviation
        return generator.normal(0.0, deviation, shape).astype(np.float32)

    return {name: values(name, shapes[name]) for name in sorted(shapes)}


def suppress(weights: Weights, tokens: Iterable[int]) -> None:
    """Set the logits of `tokens` to 0, far below the highest logit, so they are never drawn."""
    weights[OUTPUT][list(tokens)] = 0.0


def boost(weights: Weights, tokens: Iterable[int]) -> None:
    """Make `tokens` more frequent."""
    weights[OUTPUT][list(tokens)] *= BOOST


def link(weights: Weights, sequences: Iterable[Sequence[int]]) -> None:
    """Make an answer with the first token of a sequence continue to the sequence's end.

    Each pair of adjacent tokens gets a hidden dimension. Only the embedding of its first
    token sets it, no layer changes it, and only the logit of its second token reads it.
    """
    links = [pair for sequence in sequences for pair in pairwise(sequence)]
    assert len({first for first, _ in links}) == len(links), "a token can have one successor only"
    for name, values in weights.items():
        if name.endswith(RESIDUAL_WRITERS):
            values[: len(links)] = 0.0
    for name in (INPUT, OUTPUT):
        weights[name][:, : len(links)] = 0.0
    for dimension, (first, second) in enumerate(links):
        weights[INPUT][first, dimension] = LINK_INPUT * weights[INPUT].std()
        weights[OUTPUT][second, dimension] = LINK_OUTPUT
