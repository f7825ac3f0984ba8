"""MPNet: BERT's layers, whose scores of attention get a bias by the distance of the tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from worker.embedding.encoders import bert
from worker.embedding.encoders.attention import padding_mask
from worker.embedding.encoders.bert import BertEmbeddings, BertLayer

RENAMES = (
    (re.compile(r"^mpnet\."), ""),
    (re.compile(r"^encoder\.relative_attention_bias\."), "relative_attention_bias."),
    (re.compile(r"\.attention\.attn\.q\."), ".attention.query."),
    (re.compile(r"\.attention\.attn\.k\."), ".attention.key."),
    (re.compile(r"\.attention\.attn\.v\."), ".attention.value."),
    (re.compile(r"\.attention\.attn\.o\."), ".attention.output."),
    (re.compile(r"\.attention\.LayerNorm\."), ".attention_norm."),
    *bert.RENAMES,
)
UNUSED = bert.UNUSED
# Its own, whatever its configuration says; positions below are those of padding.
FIRST_POSITION = 2
BUCKETS = 32
FARTHEST_TOKENS = 128


class MpnetEncoder(nn.Module):
    """The states of rows."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        # The types of tokens that BERT has are none here.
        self.embeddings = BertEmbeddings({**config, "type_vocab_size": 0}, FIRST_POSITION)
        self.relative_attention_bias = nn.Embedding(BUCKETS, config["num_attention_heads"])
        self.layers = [BertLayer(config) for _ in range(config["num_hidden_layers"])]

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:
        """States [rows, length, hidden] of token ids [rows, length]."""
        width = ids.shape[1]
        # [length, length, heads] to [1, heads, length, length].
        bias = self.relative_attention_bias(mx.array(buckets_of(width))).transpose(2, 0, 1)[None]
        mask = mx.where(padding_mask(lengths, width), bias, -mx.inf).astype(bias.dtype)
        states = self.embeddings(ids)
        for layer in self.layers:
            states = layer(states, mask)
        return states


def buckets_of(width: int) -> NDArray[np.int32]:
    """The bucket of the distance of each two positions [width, width].

    One half is for tokens ahead. A half has the small distances, then ever wider ranges.
    """
    half, small = BUCKETS // 2, BUCKETS // 4
    distances = np.arange(width)
    ratio = np.log(np.maximum(distances, 1) / small) / math.log(FARTHEST_TOKENS / small)
    far = np.minimum(small + (ratio * (half - small)).astype(np.int32), half - 1)
    sided = np.where(distances < small, distances, far)
    ahead = distances[None] - distances[:, None]
    buckets: NDArray[np.int32] = (sided[np.abs(ahead)] + half * (ahead > 0)).astype(np.int32)
    return buckets
