"""A tiny LFM2: convolutions with a state, and attention. It has no tokenizer."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.models import lfm2

from tests.models import weights

VOCABULARY_SIZE = 512


def make_hybrid() -> nn.Module:
    """The model in float32; one of its two kinds of caches cannot be cut."""
    model = lfm2.Model(
        lfm2.ModelArgs(
            model_type="lfm2",
            vocab_size=VOCABULARY_SIZE,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            norm_eps=1e-5,
            conv_bias=False,
            conv_L_cache=3,
            block_dim=64,
            block_multiple_of=16,
            block_ffn_dim_multiplier=1.0,
            block_auto_adjust_ff_dim=False,
            intermediate_size=128,
            layer_types=["conv", "full_attention", "conv", "full_attention"],
        )
    )
    values = weights.draw(model, embedding_deviation=1.0, seed=0)
    generator = np.random.default_rng(1)
    for name, value in values.items():
        if (
            value.ndim == 3
        ):  # a convolution has few inputs, so it needs larger weights than a matrix
            values[name] = generator.normal(0.0, 1.0, value.shape).astype(np.float32)
    model.update(tree_unflatten([(name, mx.array(value)) for name, value in values.items()]))
    mx.eval(model.parameters())
    return model
