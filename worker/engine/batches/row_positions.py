"""Where the tokens of a batch's rows are in its caches: which places are padding, and which holes.

All rows end at the same place. Before a row's first token is padding. A hole is what a row has
computed in vain, like a draft that was wrong: attention does not see it, and the row has one
token less for each of its places. Layers share one object, and with it its arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_causal_mask

Mask = mx.array | Literal["causal"] | None
Hole = tuple[int, int]
"""The places from the first number to before the second."""
# Closing holes copies all rows. It is done when every row wastes this many places, or this share of
# its tokens, or when the rows have this many holes.
MAX_WASTED_PLACES = 64
MAX_WASTED_SHARE = 1 / 8
MAX_HOLES = 512
# For how many steps a mask is made at once.
MASKED_STEPS = 256


class RowPositions:
    """The paddings before the rows of a batch, and the holes of each row, in order."""

    def __init__(
        self, paddings: Iterable[int], holes: Sequence[tuple[Hole, ...]] | None = None
    ) -> None:
        self.paddings = tuple(paddings)
        self.holes = tuple(holes) if holes is not None and any(holes) else None
        self.is_padded = any(self.paddings) or self.holes is not None
        self._offsets: tuple[int, mx.array] | None = None
        self._mask: tuple[tuple[int, int, int | None], mx.array] | None = None
        self._next_masks: mx.array | None = None

    @property
    def key(self) -> object:
        """Equal for equal positions."""
        return self.paddings, self.holes

    # ------------------------------------------------------------ what layers ask for

    def offsets(self, end: int) -> mx.array:
        """The rows' tokens, if all rows end at `end`: [rows]."""
        if self._offsets is None or self._offsets[0] != end:
            self._offsets = end, mx.array(self.lengths(end))
        return self._offsets[1]

    def mask(self, tokens: int, end: int, window: int | None) -> Mask:
        """The mask of the next `tokens` tokens of each row: [rows, 1, tokens, end + tokens]."""
        if not self.is_padded and window is None:
            return None if tokens == 1 else "causal"
        if tokens == 1 and window is None and self.holes is None:
            return self._next_mask(end)
        key = tokens, end, window
        if self._mask is None or self._mask[0] != key:
            self._mask = key, self._make_mask(tokens, end, window)
        return self._mask[1]

    def _next_mask(self, end: int) -> mx.array:
        """The mask of one more token: the start of one that is made for many steps."""
        if self._next_masks is None or self._next_masks.shape[-1] <= end:
            places = mx.arange(end + MASKED_STEPS)
            self._next_masks = places >= mx.array(self.paddings)[:, None, None, None]
        if self._mask is None or self._mask[0] != (1, end, None):
            self._mask = (1, end, None), self._next_masks[..., : end + 1]
        return self._mask[1]

    def _make_mask(self, tokens: int, end: int, window: int | None) -> mx.array:
        if self.holes is None:
            return make_causal_mask(tokens, end, window, mx.array(self.paddings))
        visible = self.visible(end + tokens)
        order = np.cumsum(visible, axis=1) - 1
        later = order[:, None, :] <= order[:, end:, None]
        mask = later & visible[:, None, :]
        if window is not None:
            mask &= order[:, None, :] > order[:, end:, None] - window
        return mx.array(mask[:, None])

    # ------------------------------------------------------------ what is where

    def lengths(self, end: int) -> list[int]:
        """The rows' tokens, if all rows end at `end`."""
        lengths = [end - padding for padding in self.paddings]
        for row, holes in enumerate(self.holes or ()):
            lengths[row] -= sum(last - first for first, last in holes)
        return lengths

    def visible(self, end: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """Which of the first `end` places have tokens: [rows, end]."""
        visible = np.ones((len(self.paddings), end), np.bool_)
        for row, padding in enumerate(self.paddings):
            visible[row, :padding] = False
            for first, last in self.holes[row] if self.holes else ():
                visible[row, first:last] = False
        return visible

    def columns(self, row: int, end: int) -> slice | mx.array:
        """The places of a row's tokens."""
        if self.holes is None or not self.holes[row]:
            return slice(self.paddings[row], end)
        [visible] = RowPositions([self.paddings[row]], [self.holes[row]]).visible(end)
        return mx.array(np.flatnonzero(visible).astype(np.int32))

    def is_wasteful(self, end: int) -> bool:
        """Whether the holes cost more than to close them."""
        if self.holes is None:
            return False
        wasted = end - max(self.lengths(end))
        bound = max(MAX_WASTED_PLACES, end * MAX_WASTED_SHARE)
        return wasted >= bound or sum(map(len, self.holes)) > MAX_HOLES

    # ------------------------------------------------------------ how it changes

    def keep(self, slots: Sequence[int]) -> RowPositions:
        """Those of the rows in these slots, in this order."""
        holes = [self.holes[slot] for slot in slots] if self.holes else None
        return RowPositions((self.paddings[slot] for slot in slots), holes)

    def shift(self, places: int) -> RowPositions:
        """The positions with `places` more padding before each row; less if negative."""
        if not places:
            return self
        holes = [
            tuple((first + places, last + places) for first, last in row)
            for row in self.holes or ()
        ]
        return RowPositions((padding + places for padding in self.paddings), holes)

    def place(self, other: RowPositions, slots: Sequence[int], end: int) -> RowPositions:
        """With the other's rows in these slots; a slot that has no row is padding up to `end`."""
        rows = max(len(self.paddings), max(slots) + 1)
        paddings = [*self.paddings, *[end] * (rows - len(self.paddings))]
        holes = [*(self.holes or [()] * len(self.paddings))]
        holes += [()] * (rows - len(holes))
        for index, slot in enumerate(slots):
            paddings[slot] = other.paddings[index]
            holes[slot] = other.holes[index] if other.holes else ()
        return RowPositions(paddings, holes)

    def drop_last(self, dropped: Sequence[int], end: int) -> RowPositions:
        """With a hole of these lengths at the end of each row; `end` is where the rows end."""
        holes = [
            (*row, (end - length, end)) if length else row
            for row, length in zip(self.holes or [()] * len(self.paddings), dropped, strict=True)
        ]
        return RowPositions(self.paddings, holes)


def make_causal_mask(
    tokens: int, end: int, window: int | None = None, paddings: mx.array | None = None
) -> mx.array:
    """mlx-lm's mask: [tokens, end + tokens], or with paddings [rows, 1, tokens, end + tokens]."""
    mask: mx.array = create_causal_mask(tokens, end, window_size=window, left_padding=paddings)
    return mask
