"""Which slot of its batch's caches each row has, and how long a gap is worth keeping.

A row that leaves leaves a gap. A step computes the gap as if there were a row, until one joins and
takes it. Closing gaps copies the rows. It is done once the steps on gaps have cost as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

# To copy the rows reads and writes them; a step reads them.
CLOSING_STEPS = 2.0


class RowSlots:
    """The slots of a batch's rows; `width` slots are computed in a step."""

    def __init__(self, rows: int) -> None:
        self.slots = list(range(rows))
        self.width = rows
        # Whether the first row has the first slot, and so on, without a gap.
        self.is_in_order = True
        self._wasted_steps = 0.0
        self._maps: tuple[mx.array, mx.array] | None = None

    @property
    def gaps(self) -> int:
        """The slots that are computed for no row."""
        return self.width - len(self.slots)

    @property
    def is_wasteful(self) -> bool:
        """Whether the gaps have cost as much as it costs to close them."""
        return self._wasted_steps >= CLOSING_STEPS

    def count_step(self) -> None:
        """Count what a step computes for gaps."""
        self._wasted_steps += self.gaps / self.width

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows. Gaps behind the last one are not computed."""
        self.slots = [self.slots[row] for row in rows]
        self._resize(max(self.slots, default=-1) + 1)

    def add(self, rows: int) -> list[int]:
        """The slots for more rows: gaps first."""
        gaps = sorted(set(range(self.width)) - set(self.slots))
        added = [*gaps, *range(self.width, self.width + rows)][:rows]
        self.slots += added
        self._resize(max(self.width, max(added) + 1))
        return added

    def close(self) -> None:
        """The rows have the first slots, in their order."""
        self.slots = list(range(len(self.slots)))
        self._wasted_steps = 0.0
        self._resize(len(self.slots))

    def spread(self, tokens: mx.array) -> mx.array:
        """The input of each slot from the rows' tokens: [width] from [rows]. A gap has any."""
        return tokens if self.is_in_order else tokens[self._row_maps()[0]]

    def gather(self, logits: mx.array) -> mx.array:
        """The rows' logits from those of the slots: [rows, vocabulary] from [width, vocabulary]."""
        return logits if self.is_in_order else logits[self._row_maps()[1]]

    def _resize(self, width: int) -> None:
        self.width = width
        self._maps = None
        self.is_in_order = self.slots == list(range(width))
        if not self.gaps:
            self._wasted_steps = 0.0

    def _row_maps(self) -> tuple[mx.array, mx.array]:
        """The row of each slot, and the slot of each row."""
        if self._maps is None:
            row_of = dict(zip(self.slots, range(len(self.slots)), strict=True))
            rows = [row_of.get(slot, 0) for slot in range(self.width)]
            self._maps = mx.array(rows), mx.array(self.slots)
        return self._maps
