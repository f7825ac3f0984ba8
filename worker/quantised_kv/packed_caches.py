"""mlx-lm's caches of plain attention with packed keys and values.

What is appended is packed first, and the model reads all of it as it is kept: so each token meets
the same keys and values in prefill, in decode, in a later slice and from the prompt cache.
mlx-lm (0.32.2) has a quantised cache of one sequence, whose arrays no batch can hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

from worker.quantised_kv.packing import Packing


@dataclass(frozen=True, slots=True)
class LayerPacking:
    """How a layer's keys and values of `heads` heads are packed; None for what stays as it is."""

    keys: Packing | None
    values: Packing | None
    heads: int

    @property
    def read_token_bytes(self) -> int:
        """The bytes of a token's keys and values while the model reads them."""
        parts = (part for part in (self.keys, self.values) if part)
        return self.heads * sum(part.width * part.dtype.size for part in parts)

    def pack(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """The packed keys and values."""
        return (
            self.keys.pack(keys) if self.keys else keys,
            self.values.pack(values) if self.values else values,
        )

    def unpack(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """The keys and values that were packed."""
        return (
            self.keys.unpack(keys) if self.keys else keys,
            self.values.unpack(values) if self.values else values,
        )


class PackedKVCache(KVCache):  # type: ignore[misc]
    """The packed keys and values of one sequence."""

    def __init__(self, packing: LayerPacking) -> None:
        super().__init__()
        self.packing = packing

    @classmethod
    def of(cls, cache: KVCache, packing: LayerPacking) -> PackedKVCache:
        """The same for a cache of mlx-lm's with packed arrays."""
        packed = cls(packing)
        packed.keys, packed.values, packed.offset = cache.keys, cache.values, cache.offset
        return packed

    def to_plain(self) -> KVCache:
        """The packed arrays in a cache of mlx-lm's, as the prompt cache keeps them."""
        cache = KVCache()
        cache.keys, cache.values, cache.offset = self.keys, self.values, self.offset
        return cache

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append keys and values; all of the sequence, as they are kept."""
        super().update_and_fetch(*self.packing.pack(keys, values))
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """All keys and values, as they are kept."""
        return self.packing.unpack(*super().keys_and_values())

    @classmethod
    def merge(cls, caches: Sequence[PackedKVCache]) -> PackedBatchKVCache:
        """A batch of these sequences."""
        return PackedBatchKVCache.of(BatchKVCache.merge(caches), caches[0].packing)


class PackedBatchKVCache(BatchKVCache):  # type: ignore[misc]
    """The packed keys and values of a batch in prefill."""

    packing: LayerPacking

    @classmethod
    def of(cls, batch: BatchKVCache, packing: LayerPacking) -> PackedBatchKVCache:
        """The same for a batch of mlx-lm's with packed arrays."""
        packed = cls([])
        packed.state, packed.packing = batch.state, packing
        return packed

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append keys and values to each row; all of the rows, as they are kept."""
        super().update_and_fetch(*self.packing.pack(keys, values))
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """All keys and values, as they are kept."""
        return self.packing.unpack(*super().keys_and_values())
