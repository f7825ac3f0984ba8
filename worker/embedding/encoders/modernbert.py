"""ModernBERT: rotary positions, and attention that is global in some layers and local in others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from worker.embedding.encoders.attention import (
    activation_of,
    attend,
    padding_mask,
    split_heads,
    window_mask,
)
from worker.embedding.encoders.layer_types import GLOBAL, LOCAL, layer_types_of, theta_of

RENAMES = ((re.compile(r"^model\."), ""),)
UNUSED = re.compile(r"^(decoder\.|lm_head\.)")
# Of models that only classify or were pretrained so.
HEAD = re.compile(r"^head\.")
GLOBAL_EVERY_LAYERS = 3
GLOBAL_THETA, LOCAL_THETA = 160_000.0, 10_000.0
LOCAL_TOKENS = 128


class ModernBertEmbeddings(nn.Module):
    """The first states, which have no positions."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.norm = layer_norm(config)

    def __call__(self, ids: mx.array) -> mx.array:
        return self.norm(self.tok_embeddings(ids))


class ModernBertAttention(nn.Module):
    """Attention with rotary positions of one theta."""

    def __init__(self, config: Mapping[str, Any], theta: float) -> None:
        super().__init__()
        size, bias = config["hidden_size"], config.get("attention_bias", False)
        self.Wqkv = nn.Linear(size, 3 * size, bias=bias)
        self.Wo = nn.Linear(size, size, bias=bias)
        self._heads: int = config["num_attention_heads"]
        self._scale = float((size // self._heads) ** -0.5)
        self._rope = nn.RoPE(size // self._heads, base=theta)

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        parts = mx.split(self.Wqkv(states), 3, axis=-1)
        queries, keys, values = (split_heads(part, self._heads) for part in parts)
        queries, keys = self._rope(queries), self._rope(keys)
        return self.Wo(attend(queries, keys, values, scale=self._scale, mask=mask))


class ModernBertFeedForward(nn.Module):
    """A gated linear unit."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size, wide = config["hidden_size"], int(config["intermediate_size"])
        bias = config.get("mlp_bias", False)
        self.Wi = nn.Linear(size, 2 * wide, bias=bias)
        self.Wo = nn.Linear(wide, size, bias=bias)
        self._activate = activation_of(config.get("hidden_activation", "gelu"))

    def __call__(self, states: mx.array) -> mx.array:
        values, gates = mx.split(self.Wi(states), 2, axis=-1)
        return self.Wo(self._activate(values) * gates)


class ModernBertLayer(nn.Module):
    """One layer, normalised before each of its halves; the first one's input is already."""

    def __init__(self, config: Mapping[str, Any], theta: float, *, is_first: bool) -> None:
        super().__init__()
        self.attn_norm = nn.Identity() if is_first else layer_norm(config)
        self.attn = ModernBertAttention(config, theta)
        self.mlp_norm = layer_norm(config)
        self.mlp = ModernBertFeedForward(config)

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        states = states + self.attn(self.attn_norm(states), mask)
        return states + self.mlp(self.mlp_norm(states))


class ModernBertEncoder(nn.Module):
    """The states of rows."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        every = config.get("global_attn_every_n_layers", GLOBAL_EVERY_LAYERS)
        self._types = layer_types_of(config, lambda index: index % every == 0)
        thetas = {
            GLOBAL: theta_of(config, GLOBAL, config.get("global_rope_theta", GLOBAL_THETA)),
            LOCAL: theta_of(config, LOCAL, config.get("local_rope_theta", LOCAL_THETA)),
        }
        self._reach: int = config.get("local_attention", LOCAL_TOKENS) // 2
        self.embeddings = ModernBertEmbeddings(config)
        self.layers = [
            ModernBertLayer(config, thetas[kind], is_first=index == 0)
            for index, kind in enumerate(self._types)
        ]
        self.final_norm = layer_norm(config)

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:
        """States [rows, length, hidden] of token ids [rows, length]."""
        masks = {
            GLOBAL: padding_mask(lengths, ids.shape[1]),
            LOCAL: window_mask(lengths, ids.shape[1], self._reach),
        }
        states = self.embeddings(ids)
        for kind, layer in zip(self._types, self.layers, strict=True):
            states = layer(states, masks[kind])
        return self.final_norm(states)


def layer_norm(config: Mapping[str, Any]) -> nn.LayerNorm:
    """A normalisation, usually without biases."""
    epsilon, bias = config.get("norm_eps", 1e-5), config.get("norm_bias", False)
    return nn.LayerNorm(config["hidden_size"], eps=epsilon, bias=bias)
