"""What follows the states: linear layers behind the pooling, and the score of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from worker.embedding.encoders.attention import activation_of
from worker.embedding.encoders.modernbert import layer_norm
from worker.embedding.pooling import pool
from worker.embedding.sentence_transformers import DenseLayer


class DenseLayers(nn.Module):
    """The linear layers behind the pooling, in their order."""

    def __init__(self, layers: Sequence[DenseLayer]) -> None:
        super().__init__()
        self.dense = [nn.Linear(each.inputs, each.outputs, bias=each.bias) for each in layers]
        self._activations = [activation_of(each.activation) for each in layers]

    def __call__(self, vectors: mx.array) -> mx.array:
        for layer, activate in zip(self.dense, self._activations, strict=True):
            vectors = activate(layer(vectors))
        return vectors


class BertHead(nn.Module):
    """BERT's: the pooled first token, and one class."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.pooler = {"dense": nn.Linear(size, size)}
        self.classifier = nn.Linear(size, 1)

    def __call__(self, states: mx.array, lengths: mx.array) -> mx.array:
        """The logits [rows] of states [rows, length, hidden]."""
        return self.classifier(mx.tanh(self.pooler["dense"](states[:, 0])))[:, 0]


class RobertaHead(nn.Module):
    """RoBERTa's: two layers behind the first token."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.classifier = {"dense": nn.Linear(size, size), "out_proj": nn.Linear(size, 1)}

    def __call__(self, states: mx.array, lengths: mx.array) -> mx.array:
        """The logits [rows] of states [rows, length, hidden]."""
        pooled = mx.tanh(self.classifier["dense"](states[:, 0]))
        return self.classifier["out_proj"](pooled)[:, 0]


class ModernBertHead(nn.Module):
    """ModernBERT's: pooled states, normalised, and one class."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size, bias = config["hidden_size"], config.get("classifier_bias", False)
        self.head = {"dense": nn.Linear(size, size, bias=bias), "norm": layer_norm(config)}
        self.classifier = nn.Linear(size, 1)
        self._activate = activation_of(config.get("classifier_activation", "gelu"))
        self._pools_mean = config.get("classifier_pooling", "cls") == "mean"

    def __call__(self, states: mx.array, lengths: mx.array) -> mx.array:
        """The logits [rows] of states [rows, length, hidden]."""
        dtype = states.dtype
        pooled = pool(states, lengths, "mean" if self._pools_mean else "cls").astype(dtype)
        return self.classifier(self.head["norm"](self._activate(self.head["dense"](pooled))))[:, 0]
