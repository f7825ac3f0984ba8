"""Untrained weights that talk: drawn so that greedy text varies instead of repeating one token.

Usual initial weights are so small that the last token decides the next, which
soon is a loop. Here every part of the network has a say, and an answer is a
long walk through the vocabulary that any change in its context diverts.
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
QUERY_SCALE = (
    4.0  # where queries and keys are normalised, attention is too even to tell places apart
)
RESIDUAL_WRITERS = ("o_proj.weight", "down_proj.weight")
FAVOUR = 1.3  # on the deviation of a token's logit: such a token comes several times as often
LINK_INPUT = 8.0
LINK_OUTPUT = 100.0


def draw(model: nn.Module, *, embedding_deviation: float, seed: int) -> Weights:
    """Weights by name for each parameter of `model`."""
    generator = np.random.default_rng(seed)
    shapes = {name: value.shape for name, value in tree_flatten(model.parameters())}

    def values(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if len(shape) == 1:
            return np.full(shape, QUERY_SCALE if name.endswith(QUERY_NORM) else 1.0, np.float32)
        matrix_deviation = MATRIX_DEVIATION / float(np.sqrt(shape[-1]))
        deviation = embedding_deviation if name == INPUT else matrix_deviation
        return generator.normal(0.0, deviation, shape).astype(np.float32)

    return {name: values(name, shapes[name]) for name in sorted(shapes)}


def silence(weights: Weights, tokens: Iterable[int]) -> None:
    """Make `tokens` never the most likely ones: their logits are 0, the highest is far above."""
    weights[OUTPUT][list(tokens)] = 0.0


def favour(weights: Weights, tokens: Iterable[int]) -> None:
    """Make `tokens` come more often than chance has it."""
    weights[OUTPUT][list(tokens)] *= FAVOUR


def link(weights: Weights, sequences: Iterable[Sequence[int]]) -> None:
    """Make an answer that begins one of `sequences` go on to its end, whatever came before.

    Each link, from one token to the next, gets a hidden dimension that only its
    first token sets, no layer writes, and only its second token listens to.
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
