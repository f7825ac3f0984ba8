"""Attention in which each token of a row sees those before and behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlx.core as mx
import mlx.nn as nn

from worker.embedding.facts import NotAnEmbeddingModel

Activation = Callable[[mx.array], mx.array]
ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": nn.gelu,
    "gelu_fast": nn.gelu_approx,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "gelu_python": nn.gelu,
    "identity": lambda states: states,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": mx.tanh,
}


def activation_of(name: object) -> Activation:
    """The activation with this name in a config.json.

    Raises:
        NotAnEmbeddingModel: it is not known.
    """
    found = ACTIVATIONS.get(str(name).lower())
    if found is None:
        raise NotAnEmbeddingModel(f"its activation {str(name)[:100]!r} is not computed here")
    return found


def padding_mask(lengths: mx.array, width: int) -> mx.array:
    """Which keys [rows, 1, 1, width] are a row's own tokens, at its start."""
    return (mx.arange(width)[None] < lengths[:, None])[:, None, None]


def window_mask(lengths: mx.array, width: int, reach: int) -> mx.array:
    """Which keys [rows, 1, width, width] are a row's own, and `reach` tokens away at most.

    Padding sees itself: a kernel may give something that is no number where nothing is seen.
    """
    positions = mx.arange(width)
    distance = mx.abs(positions[:, None] - positions[None])
    near = (distance <= reach)[None, None]
    return (near & padding_mask(lengths, width)) | (distance == 0)[None, None]


def split_heads(states: mx.array, heads: int) -> mx.array:
    """[rows, heads, length, size of a head] of [rows, length, heads * size of a head]."""
    rows, length, _ = states.shape
    return states.reshape(rows, length, heads, -1).transpose(0, 2, 1, 3)


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: mx.array
) -> mx.array:
    """The attention's output [rows, length, heads * size of a head]."""
    states = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    rows, _, length, _ = states.shape
    return states.transpose(0, 2, 1, 3).reshape(rows, length, -1)
