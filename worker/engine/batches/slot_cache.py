"""A batch's cache for plain attention: rows stay where they are while others join and leave.

mlx-lm's `BatchKVCache` (0.32.2) has arrays of exactly its rows. It copies every row when one joins
or leaves and at every 256 tokens, and reads each layer's paddings from the device to do so. Here
the arrays have room for more rows and tokens, the host knows the paddings, and a step makes the
arrays of positions once for all layers. Which slot a row has is known to the batch (row_slots.py):

- A row that joins is written to a free slot.
- A row that leaves leaves a gap, which is computed until it is taken or closed.
- The arrays are copied when they are full, and when they hold far more than the rows need.
- What a row has computed in vain is a hole among its tokens, until all holes are closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache

from worker.engine.batches.row_positions import Mask, RowPositions, make_causal_mask
from worker.engine.batches.slot_arrays import (
    CopiedCaches,
    copy_rows,
    grow,
    make_room,
    place_rows,
    round_up,
)
from worker.quantised_kv.packed_caches import LayerPacking, PackedBatchKVCache

# The arrays are copied to smaller ones if they hold this many times what the rows need.
MAX_HELD_SHARE = 1.5


class SlotKVCache:
    """One layer's keys and values: [slots, heads, tokens, width].

    All rows end at the token `end`; what is before a row's first token is zero, or what drafts
    that were wrong have left. `positions` has the slots that are computed, gaps included.
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

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """All keys and values of the rows, for a layer that shares those of this one."""
        assert self.keys is not None
        assert self.values is not None
        rows = len(self.positions.paddings)
        return self.keys[:rows, :, : self.end], self.values[:rows, :, : self.end]

    # ------------------------------------------------------------ what batches call

    def filter(self, keep: Sequence[int], max_share: float = MAX_HELD_SHARE) -> None:
        """Keep the rows in these slots, in this order; the first ones in place are not copied.

        They are if the arrays hold more than `max_share` times what the rows need.
        """
        unused = min((self.positions.paddings[slot] for slot in keep), default=0)
        needed = len(keep), round_up(self.end - unused)
        in_place = list(keep) == list(range(len(keep)))
        if in_place and self.slots * self.capacity <= max_share * needed[0] * needed[1]:
            self.positions = self.positions.keep(keep)
        else:
            self.resize(keep, needed)

    def resize(self, keep: Sequence[int], size: tuple[int, int]) -> None:
        """Copy the rows in these slots, in this order, to arrays of so many slots and tokens.

        What is padding of all of them is left out.
        """
        self.positions = self.positions.keep(keep)
        if self.keys is None or self.values is None:
            return
        unused = min(self.positions.paddings, default=0)
        longest, taken = self.end - unused, slice(unused, self.end)
        self.keys = copy_rows(self.keys, keep, taken, size, longest)
        self.values = copy_rows(self.values, keep, taken, size, longest)
        self.positions = self.positions.shift(-unused)
        self.end = longest

    def extend(self, other: SlotKVCache, slots: Sequence[int] = (), room: int = 0) -> None:
        """Put the other cache's rows into these free slots, by default behind all others.

        Arrays that must be copied for them get `room` slots, or as many as there are rows. The
        other cache is left without arrays: a join would hold its rows twice in all layers.
        """
        rows, added = len(self.positions.paddings), len(other.positions.paddings)
        slots = slots or range(rows, rows + added)
        size, end = (rows, self.end), max(self.end, other.end)
        joined = other.positions.shift(end - other.end)
        self.positions = self.positions.shift(end - self.end).place(joined, slots, end)
        self.end = end
        if self.keys is not None or other.keys is not None:
            self.keys = place_rows(self.keys, size, other.keys, other.end, slots, room)
            self.values = place_rows(self.values, size, other.values, other.end, slots, room)
        other.keys = other.values = None

    def extract(self, idx: int) -> KVCache:
        """The cache of one row, without its padding: a part of the arrays, which is not copied.

        It is to be dropped before the next step, which could not change the arrays in place.
        """
        cache = KVCache()
        if self.keys is None or self.values is None:
            return cache
        taken = self.positions.columns(idx, self.end)
        cache.keys = self.keys[idx : idx + 1, :, taken]
        cache.values = self.values[idx : idx + 1, :, taken]
        cache.offset = cache.keys.shape[2]
        return cache

    def close_holes(
        self, places: mx.array, positions: RowPositions, end: int, room: int = 0
    ) -> None:
        """Move the tokens of each row to where these positions have them.

        `places`, of [slots, `end`], are where they are now. The arrays get `room` tokens of each
        row. Without `room` they do not grow.
        """
        if self.keys is not None and self.values is not None:
            room = room or min(self.capacity, max(round_up(end + 1), grow(end)))
            # The free slots are kept: the next row that joins takes one.
            free = self.slots - places.shape[0]
            taken = mx.pad(places, [(0, free), (0, room - end)])[:, None, :, None]
            self.keys = mx.take_along_axis(self.keys, taken, axis=2)
            self.values = mx.take_along_axis(self.values, taken, axis=2)
        self.positions, self.end = positions, end

    # ------------------------------------------------------------ what is held

    @property
    def capacity(self) -> int:
        """The tokens of each row that the arrays have room for."""
        return 0 if self.keys is None else self.keys.shape[2]

    @property
    def slots(self) -> int:
        """The slots of the arrays, free ones included; 0 before there are any."""
        return 0 if self.keys is None else self.keys.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """The slots and the tokens of each that the arrays have room for."""
        return self.slots, self.capacity

    @property
    def nbytes(self) -> int:
        """The bytes of the arrays, free slots included."""
        return sum(array.nbytes for array in self.state if array is not None)

    @property
    def state(self) -> tuple[mx.array | None, mx.array | None]:
        """The arrays, free slots included."""
        return self.keys, self.values


class PackedSlotKVCache(SlotKVCache):
    """The same with packed keys and values; the model reads them as they are kept."""

    def __init__(
        self,
        keys: mx.array | None,
        values: mx.array | None,
        end: int,
        positions: RowPositions,
        packing: LayerPacking,
    ) -> None:
        super().__init__(keys, values, end, positions)
        self.packing = packing

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        packed = super().update_and_fetch(*self.packing.pack(keys, values))
        return self.packing.unpack(*packed)

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        return self.packing.unpack(*super().keys_and_values())


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
    if type(layer) not in (BatchKVCache, PackedBatchKVCache):
        return layer
    end: int = layer._idx
    if end not in positions:
        positions[end] = RowPositions(read_paddings(layer))
    if type(layer) is PackedBatchKVCache:
        return PackedSlotKVCache(layer.keys, layer.values, end, positions[end], layer.packing)
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
    known: dict[object, RowPositions] = {}
    for cache in slot_caches(layers):
        cache.positions = known.setdefault(cache.positions.key, cache.positions)


def are_slots(layers: Sequence[Any]) -> bool:
    """Whether every layer has slots; other caches have no gaps."""
    return all(
        are_slots(layer.caches) if type(layer) is CacheList else isinstance(layer, SlotKVCache)
        for layer in layers
    )


def extend_layers(
    layers: Sequence[Any],
    others: Sequence[Any],
    slots: Sequence[int],
    room: int = 0,
    copied: CopiedCaches | None = None,
) -> None:
    """Put the rows of the other layers into these slots; see `SlotKVCache.extend`."""
    copied = copied or CopiedCaches(held_bytes(layers))
    for layer, other in zip(layers, others, strict=True):
        match layer:
            case SlotKVCache():
                with copied.change(layer):
                    layer.extend(other, slots, room)
            case CacheList():
                extend_layers(layer.caches, other.caches, slots, room, copied)
            case _:
                layer.extend(other)


def filter_layers(
    layers: Sequence[Any],
    slots: Sequence[int],
    max_share: float,
    copied: CopiedCaches | None = None,
) -> None:
    """Keep the rows in these slots; see `SlotKVCache.filter`."""
    copied = copied or CopiedCaches(held_bytes(layers))
    for layer in layers:
        match layer:
            case SlotKVCache():
                with copied.change(layer):
                    layer.filter(slots, max_share)
            case CacheList():
                filter_layers(layer.caches, slots, max_share, copied)
            case _:
                layer.filter(list(slots))


def resize_caches(
    caches: Sequence[SlotKVCache], rows: Sequence[int], size: tuple[int, int]
) -> None:
    """Copy the rows in these slots, in this order, to arrays of so many slots and tokens."""
    copied = CopiedCaches(held_bytes(caches))
    for cache in caches:
        with copied.change(cache):
            cache.resize(rows, size)


def held_bytes(layers: Sequence[Any]) -> int:
    """The bytes of all arrays with slots."""
    return sum(cache.nbytes for cache in slot_caches(layers))


def slot_caches(layers: Sequence[Any]) -> Iterable[SlotKVCache]:
    """The caches of plain attention."""
    for layer in layers:
        match layer:
            case SlotKVCache():
                yield layer
            case CacheList():
                yield from slot_caches(layer.caches)


# ------------------------------------------------------------ drafts


def can_drop_tokens(layers: Sequence[Any]) -> bool:
    """Whether the last tokens of each row can be taken back: all layers have the same slots."""
    if not layers or not all(isinstance(layer, SlotKVCache) for layer in layers):
        return False
    first = layers[0]
    return all(
        layer.positions is first.positions and layer.end == first.end for layer in layers[1:]
    )


def drop_tokens(layers: Sequence[SlotKVCache], dropped: Sequence[int]) -> bool:
    """Drop the last `dropped[slot]` tokens of the row in each slot. The device is not read.

    What all rows drop is computed over again. What only some drop is a hole. The result is
    whether holes were closed.
    """
    first, common = layers[0], min(dropped)
    end, positions = first.end - common, first.positions
    if any(dropped) and max(dropped) > common:
        positions = positions.drop_last([each - common for each in dropped], end)
    for layer in layers:
        layer.positions, layer.end = positions, end
    closes = positions.is_wasteful(end)
    if closes:
        close_holes(layers)
    return closes


def end_without_holes(layers: Sequence[Any]) -> int | None:
    """Where the rows would end if their holes were closed; None if they have none."""
    first = layers[0] if layers else None
    if not isinstance(first, SlotKVCache) or first.positions.holes is None:
        return None
    return max(first.positions.lengths(first.end))


def close_holes(layers: Sequence[SlotKVCache], room: int = 0) -> None:
    """Copy the tokens of all rows, without holes; see `SlotKVCache.close_holes`."""
    first = layers[0]
    visible, lengths = first.positions.visible(first.end), first.positions.lengths(first.end)
    end = max(lengths)
    # A stable sort: what is hidden comes first, and the tokens keep their order.
    places = mx.array(np.argsort(visible, axis=1, kind="stable")[:, -end:].astype(np.int32))
    positions = RowPositions(end - length for length in lengths)
    copied = CopiedCaches(held_bytes(layers))
    for layer in layers:
        with copied.change(layer):
            layer.close_holes(places, positions, end, room)
