"""EmbeddingGemma: the layers of Gemma 3 with attention to both sides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.gemma3_text import MLP, RMSNorm

from worker.embedding.encoders.attention import (
    attend,
    padding_mask,
    split_heads,
    window_mask,
)
from worker.embedding.encoders.layer_types import GLOBAL, LOCAL, layer_types_of, theta_of
from worker.embedding.facts import NotAnEmbeddingModel

RENAMES = ((re.compile(r"^(model|language_model)\."), ""),)
UNUSED = re.compile(r"^lm_head\.")
GLOBAL_EVERY_LAYERS = 6
GLOBAL_THETA, LOCAL_THETA = 1_000_000.0, 10_000.0
LOCAL_TOKENS = 4096
ACTIVATION = "gelu_pytorch_tanh"


class GemmaAttention(nn.Module):
    """Attention with normalised queries and keys, and fewer keys than queries."""

    def __init__(self, config: Mapping[str, Any], theta: float) -> None:
        super().__init__()
        size, head_size = config["hidden_size"], config["head_dim"]
        epsilon = config.get("rms_norm_eps", 1e-6)
        self._heads: int = config["num_attention_heads"]
        self._key_heads: int = config["num_key_value_heads"]
        self.q_proj = nn.Linear(size, self._heads * head_size, bias=False)
        self.k_proj = nn.Linear(size, self._key_heads * head_size, bias=False)
        self.v_proj = nn.Linear(size, self._key_heads * head_size, bias=False)
        self.o_proj = nn.Linear(self._heads * head_size, size, bias=False)
        self.q_norm = RMSNorm(head_size, eps=epsilon)
        self.k_norm = RMSNorm(head_size, eps=epsilon)
        self._scale = float(config.get("query_pre_attn_scalar", 256) ** -0.5)
        self._rope = nn.RoPE(head_size, base=theta)

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        queries = self._rope(self.q_norm(split_heads(self.q_proj(states), self._heads)))
        keys = self._rope(self.k_norm(split_heads(self.k_proj(states), self._key_heads)))
        values = split_heads(self.v_proj(states), self._key_heads)
        return self.o_proj(attend(queries, keys, values, scale=self._scale, mask=mask))


class GemmaLayer(nn.Module):
    """One layer, normalised before and behind each of its halves."""

    def __init__(self, config: Mapping[str, Any], theta: float) -> None:
        super().__init__()
        size, epsilon = config["hidden_size"], config.get("rms_norm_eps", 1e-6)
        self.self_attn = GemmaAttention(config, theta)
        self.mlp = MLP(size, config["intermediate_size"])
        self.input_layernorm = RMSNorm(size, eps=epsilon)
        self.post_attention_layernorm = RMSNorm(size, eps=epsilon)
        self.pre_feedforward_layernorm = RMSNorm(size, eps=epsilon)
        self.post_feedforward_layernorm = RMSNorm(size, eps=epsilon)

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        attended = self.self_attn(self.input_layernorm(states), mask)
        states = states + self.post_attention_layernorm(attended)
        narrowed = self.mlp(self.pre_feedforward_layernorm(states))
        return states + self.post_feedforward_layernorm(narrowed)


class GemmaEncoder(nn.Module):
    """The states of rows."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        check_layers(config)
        every = config.get("sliding_window_pattern", GLOBAL_EVERY_LAYERS)
        self._types = layer_types_of(config, lambda index: (index + 1) % every == 0)
        thetas = {
            GLOBAL: theta_of(config, GLOBAL, config.get("rope_theta", GLOBAL_THETA)),
            LOCAL: theta_of(config, LOCAL, config.get("rope_local_base_freq", LOCAL_THETA)),
        }
        # The window has its half on each side.
        self._reach: int = config.get("sliding_window", LOCAL_TOKENS) // 2
        self._scale = float(config["hidden_size"] ** 0.5)
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = [GemmaLayer(config, thetas[kind]) for kind in self._types]
        self.norm = RMSNorm(config["hidden_size"], eps=config.get("rms_norm_eps", 1e-6))

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:
        """States [rows, length, hidden] of token ids [rows, length]."""
        masks = {
            GLOBAL: padding_mask(lengths, ids.shape[1]),
            LOCAL: window_mask(lengths, ids.shape[1], self._reach),
        }
        states = self.embed_tokens(ids)
        states = states * mx.array(self._scale, dtype=states.dtype)
        for kind, layer in zip(self._types, self.layers, strict=True):
            states = layer(states, masks[kind])
        return self.norm(states)


def check_layers(config: Mapping[str, Any]) -> None:
    """Refuse what mlx-lm's layers and this attention do not compute.

    Raises:
        NotAnEmbeddingModel: the configuration has it.
    """
    activation = config.get("hidden_activation", ACTIVATION)
    if activation != ACTIVATION:
        raise NotAnEmbeddingModel(f"its activation {str(activation)[:100]!r} is not computed here")
    if config.get("attn_logit_softcapping") is not None:
        raise NotAnEmbeddingModel("it caps attention scores, which is not computed here")
