"""BERT, RoBERTa and XLM-RoBERTa: encoders with learned positions.

RoBERTa counts positions from behind that of its padding, and has no types of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from worker.embedding.encoders.attention import activation_of, attend, padding_mask, split_heads
from worker.embedding.facts import NotAnEmbeddingModel

# From the names of transformers to those of this module.
RENAMES = (
    (re.compile(r"^(bert|roberta|model)\."), ""),
    (re.compile(r"^encoder\.layer\."), "layers."),
    (re.compile(r"^embeddings\.LayerNorm\."), "embeddings.norm."),
    (re.compile(r"\.attention\.self\."), ".attention."),
    (re.compile(r"\.attention\.output\.dense\."), ".attention.output."),
    (re.compile(r"\.attention\.output\.LayerNorm\."), ".attention_norm."),
    (re.compile(r"\.intermediate\.dense\."), ".feed_forward.widen."),
    (re.compile(r"\.output\.dense\."), ".feed_forward.narrow."),
    (re.compile(r"\.output\.LayerNorm\."), ".output_norm."),
)
# Not of the states: the heads of pretraining, and constants that old files have.
UNUSED = re.compile(r"(^|\.)(position_ids|token_type_ids)$|^(cls|lm_head)\.")
POOLER = re.compile(r"^pooler\.")


class BertEmbeddings(nn.Module):
    """The first states: a token's own, its position's and, where there are types, its type's."""

    def __init__(self, config: Mapping[str, Any], first_position: int) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], size)
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], size)
        if types := config.get("type_vocab_size", 2):
            self.token_type_embeddings = nn.Embedding(types, size)
        self.norm = nn.LayerNorm(size, eps=config.get("layer_norm_eps", 1e-12))
        self._first_position = first_position

    def __call__(self, ids: mx.array, types: mx.array | None = None) -> mx.array:
        positions = mx.arange(self._first_position, self._first_position + ids.shape[1])
        states = self.word_embeddings(ids) + self.position_embeddings(positions)
        if types is not None:
            states = states + self.token_type_embeddings(types)
        return self.norm(states)


class BertAttention(nn.Module):
    """Attention with biases."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)
        self._heads: int = config["num_attention_heads"]
        self._scale = float((size // self._heads) ** -0.5)

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        queries = split_heads(self.query(states), self._heads)
        keys = split_heads(self.key(states), self._heads)
        values = split_heads(self.value(states), self._heads)
        return self.output(attend(queries, keys, values, scale=self._scale, mask=mask))


class BertFeedForward(nn.Module):
    """Two linear layers, with an activation between."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size, wide = config["hidden_size"], config["intermediate_size"]
        self.widen = nn.Linear(size, wide)
        self.narrow = nn.Linear(wide, size)
        self._activate = activation_of(config.get("hidden_act", "gelu"))

    def __call__(self, states: mx.array) -> mx.array:
        return self.narrow(self._activate(self.widen(states)))


class BertLayer(nn.Module):
    """One layer, normalised behind each of its halves."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size, epsilon = config["hidden_size"], config.get("layer_norm_eps", 1e-12)
        self.attention = BertAttention(config)
        self.attention_norm = nn.LayerNorm(size, eps=epsilon)
        self.feed_forward = BertFeedForward(config)
        self.output_norm = nn.LayerNorm(size, eps=epsilon)

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        states = self.attention_norm(states + self.attention(states, mask))
        return self.output_norm(states + self.feed_forward(states))


class BertEncoder(nn.Module):
    """The states of rows. `separator` is the token behind the first part of a pair."""

    def __init__(
        self, config: Mapping[str, Any], *, first_position: int = 0, separator: int | None = None
    ) -> None:
        super().__init__()
        positions = config.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise NotAnEmbeddingModel(f"its positions are {positions}, and only absolute are known")
        self.embeddings = BertEmbeddings(config, first_position)
        self.layers = [BertLayer(config) for _ in range(config["num_hidden_layers"])]
        self._separator = separator if config.get("type_vocab_size", 2) > 1 else None

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:
        """States [rows, length, hidden] of token ids [rows, length]."""
        states = self.embeddings(ids, self._types(ids))
        mask = padding_mask(lengths, ids.shape[1])
        for layer in self.layers:
            states = layer(states, mask)
        return states

    def _types(self, ids: mx.array) -> mx.array:
        """The type of each token: 1 in the second part of a pair, which a separator ends, too."""
        if self._separator is None:
            return mx.zeros_like(ids)
        ends = (ids == self._separator).astype(mx.int32)
        return (mx.cumsum(ends, axis=1) - ends > 0).astype(mx.int32)
