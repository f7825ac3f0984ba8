"""How many bytes a model's caches take for so many tokens, known from the caches themselves.

A probe runs the model lazily: MLX gives every array its shape before anything is
computed, so asking costs no device time and no memory. What grows between two
lengths is counted by token, up to the window of a rotating or chunked cache; what
does not (the states of hybrid and recurrent models) is counted once a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

# The step in which mlx-lm's caches (0.32.2) grow.
STEP_TOKENS = 256
SHORT_TOKENS, LONG_TOKENS = 1, 1 + STEP_TOKENS


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer's cache: bytes a row, bytes a token, and the tokens it keeps at most (0: all)."""

    row_bytes: int
    token_bytes: float
    window_tokens: int


class KVCost:
    """The bytes of all layers of one model."""

    def __init__(self, layers: list[LayerCost], prefill_step_tokens: int) -> None:
        # Most layers of a model are alike.
        self._layers = Counter(layers)
        self._prefill_step_tokens = prefill_step_tokens

    def batch_bytes(self, rows: int, longest_tokens: int) -> int:
        """The caches of `rows` sequences in one batch: each is padded to the longest."""
        of_layers = (
            n * self._layer_bytes(layer, longest_tokens) for layer, n in self._layers.items()
        )
        return rows * sum(of_layers)

    def longest_within(self, free_bytes: int, limit_tokens: int) -> int:
        """The longest single sequence of at most `limit_tokens` that takes `free_bytes` or less."""
        low, high = 0, limit_tokens
        while low < high:
            middle = (low + high + 1) // 2
            if self.batch_bytes(1, middle) <= free_bytes:
                low = middle
            else:
                high = middle - 1
        return low

    def _layer_bytes(self, layer: LayerCost, tokens: int) -> int:
        kept = -(-tokens // STEP_TOKENS) * STEP_TOKENS
        if layer.window_tokens:
            # While a slice of the prompt is computed, all of it stands behind the window.
            kept = min(kept, layer.window_tokens + self._prefill_step_tokens)
        return layer.row_bytes + int(layer.token_bytes * kept)


def probe(model: nn.Module, prefill_step_tokens: int) -> KVCost:
    """Ask the model's own caches."""
    short, long = (list(flat(run_lazily(model, tokens))) for tokens in (SHORT_TOKENS, LONG_TOKENS))
    layers = [measure_layer(*pair) for pair in zip(short, long, strict=True)]
    return KVCost(layers, prefill_step_tokens)


def run_lazily(model: nn.Module, tokens: int) -> list[Any]:
    """The caches as `tokens` tokens would leave them; nothing is computed."""
    cache: list[Any] = make_prompt_cache(model)
    model(mx.zeros((1, tokens), dtype=mx.uint32), cache=cache)
    return cache


def flat(caches: list[Any]) -> Iterator[Any]:
    """Every cache, those that are lists of caches opened."""
    for cache in caches:
        inner = getattr(cache, "caches", None)
        if inner is None:
            yield cache
        else:
            yield from flat(list(inner))


def measure_layer(short: Any, long: Any) -> LayerCost:
    """One layer's cost from its cache at two lengths."""
    window = getattr(long, "max_size", None) or getattr(long, "chunk_size", None) or 0
    grown = long.nbytes - short.nbytes
    if grown <= 0:
        return LayerCost(long.nbytes, 0.0, 0)
    # Some keep room for whole steps, some for the tokens alone: the same per token.
    return LayerCost(0, grown / (LONG_TOKENS - SHORT_TOKENS), window)
