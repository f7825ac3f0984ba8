"""Which layers of a model have quantised keys and values, and the caches of its rows.

Layers of plain attention have. Rotating windows, recurrent states and heads so narrow that
nothing is saved stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import CacheList, KVCache, make_prompt_cache

from protocol.quantisation import KVBits, KVFacts
from worker.quantised_kv.packed_caches import LayerPacking, PackedKVCache
from worker.quantised_kv.packing import packing_for

PROBE_TOKENS = 1
KEPT = "windows, recurrent states and heads too narrow to save anything"

# The packing of a layer's cache: None for one that stays as it is, a list for one of several.
Packings = list["LayerPacking | Packings | None"]


class KVQuantisation:
    """The quantisation of a model's keys and values to `bits` bits; 0 is none.

    `layers` caches of `of_layers` are quantised. `fault` is the error of a model whose code needs
    caches of its own: none of them are quantised then.
    """

    def __init__(self, bits: KVBits, packings: Packings, fault: str | None = None) -> None:
        self.bits = bits
        self._packings = packings
        self.fault = fault
        self.layers = sum(packing is not None for packing in leaves_of(packings))
        self.of_layers = sum(1 for _ in leaves_of(packings))

    @classmethod
    def of(cls, model: nn.Module, bits: KVBits) -> KVQuantisation:
        """How the model's keys and values are quantised."""
        plain = make_prompt_cache(model)
        nothing: Packings = [None] * len(plain)
        if not bits:
            return cls(0, nothing)
        try:
            compute_lazily(model, plain)
            quantisation = cls(bits, [packing_of(cache, bits) for cache in plain])
            compute_lazily(model, quantisation.make_caches(model))
        except Exception as error:
            # What a model's code raises is unknown before it has run.
            return cls(bits, nothing, f"{type(error).__name__}: {error}")
        return quantisation

    @property
    def finding(self) -> str | None:
        """Why keys and values stay in full precision; None if none do."""
        if self.fault is not None:
            return f"keys and values stay in full precision: the model fails ({self.fault})"
        if not self.bits or self.layers == self.of_layers:
            return None
        kept = self.of_layers - self.layers
        return f"{kept} of {self.of_layers} caches stay in full precision: {KEPT}"

    @property
    def facts(self) -> KVFacts:
        """What is quantised, for the service."""
        bits = self.bits if self.layers else 0
        return KVFacts(bits, self.layers, self.of_layers, self.finding)

    def make_caches(self, model: nn.Module) -> list[Any]:
        """The empty caches of one sequence."""
        return self.to_packed(make_prompt_cache(model))

    def to_packed(self, caches: Sequence[Any]) -> list[Any]:
        """The caches of one sequence, whose arrays are packed already."""
        return [pack_cache(*pair) for pair in zip(caches, self._packings, strict=True)]

    def read_token_bytes(self) -> int:
        """The bytes of a token's keys and values in full precision, of the largest layer."""
        return max((packing.read_token_bytes for packing in self._packed()), default=0)

    def _packed(self) -> Iterator[LayerPacking]:
        return (packing for packing in leaves_of(self._packings) if packing is not None)


def compute_lazily(model: nn.Module, caches: list[Any]) -> None:
    """Give the caches the shapes of a token's keys and values; nothing is computed."""
    model(mx.zeros((1, PROBE_TOKENS), dtype=mx.uint32), cache=caches)


def packing_of(cache: Any, bits: int) -> LayerPacking | Packings | None:
    """How this cache, which has keys and values, is packed."""
    if type(cache) is CacheList:
        return [packing_of(each, bits) for each in cache.caches]
    if type(cache) is not KVCache or cache.keys is None or cache.values is None:
        return None
    keys, values = packing_for(cache.keys, bits), packing_for(cache.values, bits)
    if keys is None and values is None:
        return None
    return LayerPacking(keys, values, cache.keys.shape[1])


def pack_cache(cache: Any, packing: LayerPacking | Packings | None) -> Any:
    """A cache with packed arrays for one that holds them as mlx-lm's own."""
    match packing:
        case None:
            return cache
        case list():
            pairs = zip(cache.caches, packing, strict=True)
            return CacheList(*(pack_cache(*pair) for pair in pairs))
        case _:
            return PackedKVCache.of(cache, packing)


def to_plain(caches: Sequence[Any]) -> list[Any]:
    """The caches of one sequence as the prompt cache keeps them: packed arrays in mlx-lm's."""
    return [plain_cache(cache) for cache in caches]


def plain_cache(cache: Any) -> Any:
    """A cache of mlx-lm's for one that may be packed."""
    match cache:
        case PackedKVCache():
            return cache.to_plain()
        case CacheList():
            return CacheList(*map(plain_cache, cache.caches))
        case _:
            return cache


def leaves_of(packings: Packings) -> Iterator[LayerPacking | None]:
    """The packings of all caches, those of several in order."""
    for packing in packings:
        if isinstance(packing, list):
            yield from leaves_of(packing)
        else:
            yield packing
