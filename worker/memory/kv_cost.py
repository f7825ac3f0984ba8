"""The bytes that a model's KV caches need for `n` tokens, measured on the caches themselves.

A probe runs the model lazily: MLX gives every array its shape before it computes
anything, so a probe costs no device time and no memory. Bytes that differ between two
lengths are counted by token, up to the window of a rotating or chunked cache. Bytes that
do not (the states of hybrid and recurrent models) are counted once for each row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache, make_prompt_cache

from protocol.quantisation import KVBits
from worker.cache.radix_node import NodeCost
from worker.quantised_kv.model_quantisation import KVQuantisation

# mlx-lm's caches (0.32.2) grow by this many tokens.
STEP_TOKENS = 256
SHORT_TOKENS, LONG_TOKENS = 1, 1 + STEP_TOKENS
# The parts of a model are compared by the bytes of a sequence of so many tokens.
COMPARED_TOKENS = 8192
KV_BITS: tuple[KVBits, ...] = (0, 4, 8)
# The name by which a model's modules have the costs of all its parts.
COSTS_NAME = "costs_of_parts"


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer's cache: bytes by row, bytes by token, and the tokens it keeps (0: all)."""

    row_bytes: int
    token_bytes: float
    window_tokens: int


class KVCost:
    """The bytes of all layers of one model.

    `read_token_bytes` are those of a token of quantised keys and values while a layer reads them:
    one layer does at a time.
    """

    def __init__(
        self, layers: list[LayerCost], prefill_step_tokens: int, read_token_bytes: int = 0
    ) -> None:
        # Most layers of a model have the same cost.
        self._layers = Counter(layers)
        self._prefill_step_tokens = prefill_step_tokens
        self._read = LayerCost(0, float(read_token_bytes), 0)

    def plus(self, other: KVCost) -> KVCost:
        """The bytes of both models' caches, if each row is in both."""
        layers = [*self._layers.elements(), *other._layers.elements()]
        read_bytes = int(max(self._read.token_bytes, other._read.token_bytes))
        return KVCost(layers, self._prefill_step_tokens, read_bytes)

    @property
    def grows(self) -> bool:
        """Whether any cache grows with the tokens."""
        return any(layer.token_bytes for layer in self._layers)

    @property
    def window_tokens(self) -> int:
        """The tokens that the longest cache keeps; 0: all."""
        windows = [layer.window_tokens for layer in self._layers if layer.token_bytes]
        return 0 if 0 in windows else max(windows, default=0)

    @property
    def windows(self) -> list[int]:
        """The different numbers of tokens that caches keep, of those that do not keep all."""
        return sorted({layer.window_tokens for layer in self._layers if layer.window_tokens})

    def batch_bytes(self, rows: int, longest_tokens: int) -> int:
        """The caches of `rows` sequences in one batch: each is padded to the longest."""
        of_layers = (
            n * self._layer_bytes(layer, longest_tokens) for layer, n in self._layers.items()
        )
        return rows * (sum(of_layers) + self._layer_bytes(self._read, longest_tokens))

    def longest_within(self, free_bytes: int, limit_tokens: int) -> int:
        """The tokens of the longest sequence, at most `limit_tokens`, that fits `free_bytes`."""
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
            # During prefill the cache holds the window and the whole chunk.
            kept = min(kept, layer.window_tokens + self._prefill_step_tokens)
        return layer.row_bytes + int(layer.token_bytes * kept)


@dataclass(frozen=True, slots=True)
class PartCost:
    """The caches of the layers that one process has of a model.

    `plain` are those of plain attention, which are cut at any token; `others` all others.
    """

    plain: tuple[LayerCost, ...]
    others: tuple[LayerCost, ...]
    read_token_bytes: int

    def cost(self, prefill_step_tokens: int) -> KVCost:
        """The bytes of all its layers."""
        layers = [*self.plain, *self.others]
        return KVCost(layers, prefill_step_tokens, self.read_token_bytes)

    @property
    def node_cost(self) -> NodeCost:
        """What a node of the prompt cache counts for."""
        states = [(cost.row_bytes, cost.token_bytes, cost.window_tokens) for cost in self.others]
        return NodeCost(sum(cost.token_bytes for cost in self.plain), tuple(states))


@dataclass(frozen=True, slots=True)
class PartCosts:
    """What the largest part of a model needs that several processes have parts of.

    Each process counts with it, so that all decide alike, whichever layers they have. `caches`
    are by the bits of keys and values.
    """

    weight_bytes: int
    caches: Mapping[KVBits, PartCost]

    @classmethod
    def largest(
        cls, weight_bytes: Sequence[int], caches: Sequence[Mapping[KVBits, PartCost]]
    ) -> PartCosts:
        """The costs of all parts together: the largest of each kind."""
        of_sequence = {
            bits: [part[bits].cost(STEP_TOKENS).batch_bytes(1, COMPARED_TOKENS) for part in caches]
            for bits in KV_BITS
        }
        largest = {bits: sizes.index(max(sizes)) for bits, sizes in of_sequence.items()}
        return cls(max(weight_bytes), {bits: caches[part][bits] for bits, part in largest.items()})


def costs_of_parts(model: nn.Module) -> PartCosts | None:
    """The costs of all parts of a model; None if this process has all of it."""
    costs: PartCosts | None = getattr(model, COSTS_NAME, None)
    return costs


def probe(
    model: nn.Module, prefill_step_tokens: int, quantisation: KVQuantisation | None = None
) -> KVCost:
    """Measure the caches of a model; of one in parts, those of the largest part."""
    quantisation = quantisation or KVQuantisation.of(model, 0)
    if (costs := costs_of_parts(model)) is not None:
        return costs.caches[quantisation.bits].cost(prefill_step_tokens)
    return measure_caches(model, quantisation).cost(prefill_step_tokens)


def measure_part(model: nn.Module) -> dict[KVBits, PartCost]:
    """Measure the caches of the layers that a model's modules have, by the bits of their KV."""
    return {bits: measure_caches(model, KVQuantisation.of(model, bits)) for bits in KV_BITS}


def measure_caches(model: nn.Module, quantisation: KVQuantisation) -> PartCost:
    """Measure the caches that a model's modules use."""
    short, long = (
        run_lazily(model, tokens, quantisation) for tokens in (SHORT_TOKENS, LONG_TOKENS)
    )
    plain: list[LayerCost] = []
    others: list[LayerCost] = []
    for cache, *pair in zip(make_prompt_cache(model), short, long, strict=True):
        pairs = zip(*(flatten_caches([each]) for each in pair), strict=True)
        costs = plain if type(cache) is KVCache else others
        costs += [measure_layer(*leaves) for leaves in pairs]
    return PartCost(tuple(plain), tuple(others), quantisation.read_token_bytes())


def run_lazily(
    model: nn.Module, tokens: int, quantisation: KVQuantisation | None = None
) -> list[Any]:
    """The caches after a pass over `tokens` tokens, without computing it."""
    cache = (quantisation or KVQuantisation.of(model, 0)).make_caches(model)
    model(mx.zeros((1, tokens), dtype=mx.uint32), cache=cache)
    return cache


def flatten_caches(caches: list[Any]) -> Iterator[Any]:
    """Every cache, with lists of caches replaced by their items."""
    for cache in caches:
        inner = getattr(cache, "caches", None)
        if inner is None:
            yield cache
        else:
            yield from flatten_caches(list(inner))


def measure_layer(short: Any, long: Any) -> LayerCost:
    """One layer's cost from its cache at two lengths."""
    window = getattr(long, "max_size", None) or getattr(long, "chunk_size", None) or 0
    added_bytes = long.nbytes - short.nbytes
    if added_bytes <= 0:
        return LayerCost(long.nbytes, 0.0, 0)
    # Some caches allocate whole steps, others exactly the tokens: both give the same per token.
    return LayerCost(0, added_bytes / (LONG_TOKENS - SHORT_TOKENS), window)
