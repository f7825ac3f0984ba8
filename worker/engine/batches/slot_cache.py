"""A batch's cache for plain attention: rows stay where they are while others join and leave.

mlx-lm's `BatchKVCache` (0.32.2) has arrays of exactly its rows. It copies every row when one joins
or leaves and at every 256 tokens, and reads each layer's paddings from the device to do so. Here
the arrays have room for more rows and tokens, the host knows the paddings, and a step makes the
arrays of positions once for all layers. Which slot a row has is known to the batch (row_slots.py):

- A row that joins is written to a free slot.
- A row that leaves leaves a gap, which is computed until it is taken or closed.
- The arrays are copied when they are full, and when they hold far more than the rows need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import mlx.core as mx
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache

from worker.engine.batches.slot_arrays import (
    copy_rows,
    count_slots,
    make_room,
    place_rows,
    round_up,
)

# The arrays are copied to smaller ones if they hold this many times what the rows need.
MAX_HELD_SHARE = 1.5

Mask = mx.array | Literal["causal"] | None


class RowPositions:
    """The paddings before the rows of a batch. Layers share one, and with it its arrays."""

    def __init__(self, paddings: Iterable[int]) -> None:
        self.paddings = tuple(paddings)
        self.is_padded = any(self.paddings)
        self._offsets: tuple[int, mx.array] | None = None
        self._mask: tuple[tuple[int, int, int | None], mx.array] | None = None

    def offsets(self, end: int) -> mx.array:
        """The rows' tokens, if all rows end at `end`: [rows]."""
        if self._offsets is None or self._offsets[0] != end:
            self._offsets = end, mx.array([end - padding for padding in self.paddings])
        return self._offsets[1]

    def mask(self, tokens: int, end: int, window: int | None) -> Mask:
        """The mask of the next `tokens` tokens of each row: [rows, 1, tokens, end + tokens]."""
        if not self.is_padded and window is None:
            return None if tokens == 1 else "causal"
        key = tokens, end, window
        if self._mask is None or self._mask[0] != key:
            self._mask = key, make_causal_mask(tokens, end, window, mx.array(self.paddings))
        return self._mask[1]


class SlotKVCache:
    """One layer's keys and values: [slots, heads, tokens, width].

    All rows end at the token `end`; what is before a row's first token is zero. `positions` has
    the slots that are computed, gaps included.
    """

    def __init__(
        self,
        keys: mx.array | None,
        values: mx.array | None,
        end: int,
        positions: RowPositions,
    ) -> None:
        self.keys = keys
        self.values = values
        self.end = end
        self.positions = positions

    # ------------------------------------------------------------ what models call

    @property
    def offset(self) -> mx.array:
        """Each row's number of tokens: [rows]."""
        return self.positions.offsets(self.end)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append tokens to each row; the keys and values of all tokens of the rows."""
        rows, _, tokens, _ = keys.shape
        start, self.end = self.end, self.end + tokens
        held_keys = make_room(self.keys, keys, start)
        held_values = make_room(self.values, values, start)
        held_keys[:rows, :, start : self.end] = keys
        held_values[:rows, :, start : self.end] = values
        self.keys, self.values = held_keys, held_values
        return held_keys[:rows, :, : self.end], held_values[:rows, :, : self.end]

    def make_mask(
        self, tokens: int, return_array: bool = False, window_size: int | None = None
    ) -> Mask:
        """The mask of the next tokens of each row, as mlx-lm's models expect it."""
        mask = self.positions.mask(tokens, self.end, window_size)
        return make_causal_mask(tokens, self.end) if return_array and mask == "causal" else mask

    # ------------------------------------------------------------ what batches call

    def filter(self, keep: Sequence[int]) -> None:
        """Keep the rows in these slots, in this order; the first ones in place are not copied."""
        kept = [self.positions.paddings[slot] for slot in keep]
        self.positions = RowPositions(kept)
        if self.keys is None or self.values is None:
            return
        unused = min(kept, default=0)
        longest = self.end - unused
        slots, _, tokens, _ = self.keys.shape
        in_place = list(keep) == list(range(len(keep)))
        if in_place and slots * tokens <= MAX_HELD_SHARE * len(keep) * round_up(longest):
            return
        size = count_slots(len(keep)), round_up(longest)
        taken = slice(unused, self.end)
        self.keys = copy_rows(self.keys, keep, taken, size, longest)
        self.values = copy_rows(self.values, keep, taken, size, longest)
        self.positions = RowPositions(padding - unused for padding in kept)
        self.end = longest

    def extend(self, other: SlotKVCache, slots: Sequence[int] = ()) -> None:
        """Put the other cache's rows into these free slots, by default behind all others."""
        rows, added = len(self.positions.paddings), len(other.positions.paddings)
        slots = slots or range(rows, rows + added)
        size, end = (rows, self.end), max(self.end, other.end)
        paddings = [padding + end - self.end for padding in self.positions.paddings]
        paddings += [end] * (max(slots) + 1 - rows)
        for slot, padding in zip(slots, other.positions.paddings, strict=True):
            paddings[slot] = padding + end - other.end
        self.positions, self.end = RowPositions(paddings), end
        if self.keys is not None or other.keys is not None:
            self.keys = place_rows(self.keys, size, other.keys, other.end, slots)
            self.values = place_rows(self.values, size, other.values, other.end, slots)

    def extract(self, idx: int) -> KVCache:
        """The cache of one row, without its padding."""
        cache = KVCache()
        if self.keys is None or self.values is None:
            return cache
        taken = slice(self.positions.paddings[idx], self.end)
        cache.keys = mx.contiguous(self.keys[idx : idx + 1, :, taken])
        cache.values = mx.contiguous(self.values[idx : idx + 1, :, taken])
        cache.offset = cache.keys.shape[2]
        return cache

    # ------------------------------------------------------------ what is held

    @property
    def state(self) -> tuple[mx.array | None, mx.array | None]:
        """The arrays, free slots included."""
        return self.keys, self.values


# ------------------------------------------------------------ a batch's layers


def to_slots(layers: Sequence[Any]) -> list[Any]:
    """The layers with mlx-lm's caches of plain attention replaced; those share their arrays.

    Of a batch of several rows the device is read once.
    """
    paddings: dict[int, RowPositions] = {}
    return [replace_layer(layer, paddings) for layer in layers]


def replace_layer(layer: Any, positions: dict[int, RowPositions]) -> Any:
    """A layer's cache for decoding; `positions` are those that are known, by the last token."""
    if type(layer) is CacheList:
        return CacheList(*(replace_layer(each, positions) for each in layer.caches))
    if type(layer) is not BatchKVCache:
        return layer
    end: int = layer._idx
    if end not in positions:
        positions[end] = RowPositions(read_paddings(layer))
    return SlotKVCache(layer.keys, layer.values, end, positions[end])


def read_paddings(layer: BatchKVCache) -> list[int]:
    """The paddings of a batch; a row alone has none."""
    rows: int = layer.left_padding.shape[0]
    if rows == 1:
        return [0]
    paddings: list[int] = layer.left_padding.tolist()
    return paddings


def extract_row(layers: Sequence[Any], row: int) -> list[Any]:
    """The caches of one row of a batch in prefill; the device is read at most once."""
    return [layer.extract(row) for layer in to_slots(layers)]


def share_positions(layers: Sequence[Any]) -> None:
    """Let layers whose rows have the same paddings share one object again."""
    known: dict[tuple[int, ...], RowPositions] = {}
    for cache in slot_caches(layers):
        cache.positions = known.setdefault(cache.positions.paddings, cache.positions)


def are_slots(layers: Sequence[Any]) -> bool:
    """Whether every layer has slots; other caches have no gaps."""
    return all(
        are_slots(layer.caches) if type(layer) is CacheList else isinstance(layer, SlotKVCache)
        for layer in layers
    )


def extend_layers(layers: Sequence[Any], others: Sequence[Any], slots: Sequence[int]) -> None:
    """Put the rows of the other layers into these slots."""
    for layer, other in zip(layers, others, strict=True):
        match layer:
            case SlotKVCache():
                layer.extend(other, slots)
            case CacheList():
                extend_layers(layer.caches, other.caches, slots)
            case _:
                layer.extend(other)


def slot_caches(layers: Sequence[Any]) -> Iterable[SlotKVCache]:
    """The caches of plain attention."""
    for layer in layers:
        match layer:
            case SlotKVCache():
                yield layer
            case CacheList():
                yield from slot_caches(layer.caches)


def make_causal_mask(
    tokens: int, end: int, window: int | None = None, paddings: mx.array | None = None
) -> mx.array:
    """mlx-lm's mask: [tokens, end + tokens], or with paddings [rows, 1, tokens, end + tokens]."""
    mask: mx.array = create_causal_mask(tokens, end, window_size=window, left_padding=paddings)
    return mask
