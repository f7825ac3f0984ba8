"""The room of a batch's arrays: how much they grow, and when it is given up.

Without spare bytes of the memory budget the arrays have room for the rows and the next tokens
alone. With them they grow by a factor, so that what is copied is bounded by what is computed:
rows that outgrow their slots get twice as many, and full rows get room for half as many tokens
more. These copies keep some free slots, for short answers that come and go beside long ones. What
has been more than `MAX_HELD_SHARE` of the need for some steps is given up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from worker.engine.batches.row_positions import RowPositions
from worker.engine.batches.row_slots import RowSlots
from worker.engine.batches.slot_arrays import round_down, round_up
from worker.engine.batches.slot_cache import (
    MAX_HELD_SHARE,
    SlotKVCache,
    close_holes,
    end_without_holes,
    resize_caches,
    share_positions,
    slot_caches,
)

# What may be held when rows leave, of what the others need, where the memory budget spares it.
MAX_SPARE_SHARE = 4.0
# How often it is checked whether too much is held; what is at two checks is given up. The copy
# takes about as long as three of these steps.
CHECK_STEPS = 64
# Arrays that hold fewer further tokens of each row once holes are closed grow with the same copy.
MIN_PLACES_LEFT = 64
# A copy of the rows keeps one free slot, and one more for each of this many rows.
ROWS_PER_FREE_SLOT = 8


class SlotRoom:
    """The room of one batch's arrays; `spare_bytes` are those that the budget spares now."""

    def __init__(self, spare_bytes: Callable[[], int] = lambda: 0) -> None:
        self.spare_bytes = spare_bytes
        self._caches: list[SlotKVCache] = []
        # The bytes of all arrays, and of one token of one slot.
        self._held_bytes = self._token_bytes = 0
        # How many more places of each row certainly fit.
        self._places_left = 0
        self._steps = 0
        self._was_too_large = False

    def note(self, layers: Sequence[Any]) -> None:
        """Measure the arrays: they may not be those that there were before."""
        caches = [cache for cache in slot_caches(layers) if cache.capacity]
        self._caches = caches
        self._held_bytes = sum(cache.nbytes for cache in caches)
        self._token_bytes = sum(token_bytes_of(cache) for cache in caches)
        left = min((cache.capacity - cache.end for cache in caches), default=sys.maxsize)
        # Caches without arrays get them in the next step.
        self._places_left = left if len(caches) == sum(1 for _ in slot_caches(layers)) else 0

    # ------------------------------------------------------------ growth

    def make_place(self, layers: Sequence[Any], slots: RowSlots, places: int) -> None:
        """Let the next places of each row fit."""
        self._steps += 1
        if self._steps % CHECK_STEPS == 0:
            self._check(layers, slots)
        if places > self._places_left:
            self._grow(layers, slots, places)
        self._places_left -= places

    def _grow(self, layers: Sequence[Any], slots: RowSlots, places: int) -> None:
        full = [each for each in slot_caches(layers) if 0 < each.capacity < each.end + places]
        closed_end, rows = end_without_holes(layers), len(slots.slots)
        if full and closed_end is not None:
            free = full[0].slots - rows
            close_holes(layers, self._room_for(full, closed_end + places, rows, free))
        elif full:
            end = max(each.end for each in full) + places
            free = self._free_slots(rows, end)
            self._resize(layers, full, slots, self._room_for(full, end, rows, free), free)
        self.note(layers)

    def _room_for(self, caches: list[SlotKVCache], end: int, rows: int, free: int) -> int:
        """The tokens of arrays that these are copied to because they are full up to `end`.

        The arrays do not grow where the closed holes leave enough room.
        """
        if end + MIN_PLACES_LEFT <= (capacity := min(cache.capacity for cache in caches)):
            return capacity
        slot_bytes = sum(map(token_bytes_of, caches)) * (rows + free)
        spared = round_down(max(0, self.spare_bytes()) // slot_bytes)
        most = round_down(int(MAX_HELD_SHARE * rows * end / (rows + free)))
        return max(round_up(end), min(most, round_up(end) + spared))

    def _free_slots(self, rows: int, end: int) -> int:
        """The free slots that are kept for the next rows that join, when the others are copied."""
        held = min((cache.slots for cache in self._caches), default=0)
        if held <= rows:
            return 0
        most = min(1 + rows // ROWS_PER_FREE_SLOT, int(rows * (MAX_HELD_SHARE - 1)))
        spared = max(0, self.spare_bytes()) // (self._token_bytes * round_up(end))
        return min(held - rows, most, spared)

    def slots_for(self, slots: RowSlots) -> int:
        """The slots of arrays that these rows outgrow: twice as many, if the budget spares them.

        So joins copy other rows once each on average, however many join.
        """
        held = min((cache.slots for cache in self._caches), default=0)
        if not held or slots.width <= held:
            return 0
        slot_bytes = self._held_bytes // held
        spared = max(0, self.spare_bytes()) // slot_bytes
        return slots.width + max(0, min(2 * held - slots.width, spared))

    @property
    def max_share(self) -> float:
        """What may be held after rows have left, of what the others need."""
        return MAX_SPARE_SHARE if self.spare_bytes() > 0 else MAX_HELD_SHARE

    # ------------------------------------------------------------ what is given up

    def slack_bytes(self, rows: int) -> int:
        """The bytes of the arrays beyond those that so many rows need."""
        return max(0, self._held_bytes - self._needed_bytes(rows))

    def _needed_bytes(self, rows: int) -> int:
        """Those of the longest row's tokens, for each row: what rows reserve, without holes."""
        longest = max((max(each.lengths(end), default=0) for each, end in self._ends()), default=0)
        return rows * round_up(longest + 1) * self._token_bytes

    def _check(self, layers: Sequence[Any], slots: RowSlots) -> None:
        """Give up what has been too much for some steps."""
        rows = len(slots.slots)
        end = max((cache.end for cache in self._caches), default=0) + 1
        # Holes are closed when they are too many: they do not let the rows be copied here.
        too_large = self._held_bytes > MAX_HELD_SHARE * rows * round_up(end) * self._token_bytes
        if too_large and self._was_too_large:
            free = self._free_slots(rows, end)
            most = round_down(int(MAX_HELD_SHARE * rows * end / (rows + free)))
            tokens = min(max(round_up(end), most), self._capacity)
            self._resize(layers, self._caches, slots, tokens, free)
            too_large = False
        self._was_too_large = too_large

    def squeeze(self, layers: Sequence[Any], slots: RowSlots) -> None:
        """Give up all slack, which copies the rows."""
        if not self.slack_bytes(len(slots.slots)):
            return
        if end_without_holes(layers) is not None:
            close_holes(layers)
        longest = max(max(each.keep(slots.slots).lengths(end)) for each, end in self._ends())
        self._resize(layers, self._caches, slots, round_up(longest + 1))

    def _ends(self) -> set[tuple[RowPositions, int]]:
        """The positions and the end of each layer; most layers share them."""
        return {(cache.positions, cache.end) for cache in self._caches}

    @property
    def _capacity(self) -> int:
        return max(cache.capacity for cache in self._caches)

    def _resize(
        self,
        layers: Sequence[Any],
        caches: list[SlotKVCache],
        slots: RowSlots,
        tokens: int,
        free: int = 0,
    ) -> None:
        """Copy the rows to arrays of `tokens` tokens each with `free` slots; gaps are closed."""
        if not slots.is_in_order:
            # Only caches with slots have gaps, and all of them have.
            caches = self._caches
        resize_caches(caches, slots.slots, (len(slots.slots) + free, tokens))
        share_positions(layers)
        slots.close()
        self.note(layers)


def token_bytes_of(cache: SlotKVCache) -> int:
    """The bytes of one token of one row."""
    return cache.nbytes // (cache.slots * cache.capacity)
