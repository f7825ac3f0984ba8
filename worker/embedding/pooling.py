"""From the states of a row's tokens to one vector."""

from __future__ import annotations

import mlx.core as mx

from worker.embedding.facts import Pooling

# As torch's `normalize`, so that a vector of zeros stays one.
LEAST_LENGTH = 1e-12


def pool(states: mx.array, lengths: mx.array, pooling: Pooling) -> mx.array:
    """The vectors [rows, hidden] of states [rows, length, hidden], in float32.

    Each row has `lengths` tokens, at its start; what is behind them has no effect.
    """
    states = states.astype(mx.float32)
    match pooling:
        case "cls":
            return states[:, 0]
        case "lasttoken":
            return mx.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]
        case "max":
            return mx.max(mx.where(valid(states, lengths), states, -mx.inf), axis=1)
        case "mean":
            return sum_of(states, lengths) / lengths[:, None]
        case "mean_sqrt_len_tokens":
            return sum_of(states, lengths) / mx.sqrt(lengths[:, None].astype(mx.float32))
        case "weightedmean":
            weights = mx.arange(1, states.shape[1] + 1, dtype=mx.float32)[None, :, None]
            total = lengths * (lengths + 1) / 2
            return sum_of(states * weights, lengths) / total[:, None]


def sum_of(states: mx.array, lengths: mx.array) -> mx.array:
    """The sum of each row's states, without those of padding, which may be anything."""
    return mx.sum(mx.where(valid(states, lengths), states, 0.0), axis=1)


def valid(states: mx.array, lengths: mx.array) -> mx.array:
    """Which positions [rows, length, 1] are a row's own."""
    return (mx.arange(states.shape[1])[None] < lengths[:, None])[..., None]


def normalise(vectors: mx.array) -> mx.array:
    """The vectors with a length of 1."""
    length = mx.sqrt(mx.sum(mx.square(vectors), axis=-1, keepdims=True))
    # A maximum would make a length that is no number 0.
    return vectors / mx.where(length < LEAST_LENGTH, LEAST_LENGTH, length)
