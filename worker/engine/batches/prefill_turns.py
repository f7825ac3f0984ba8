"""Which prompts are in the next slice of prefill.

The prompt with the fewest tokens left comes first, so that a short prompt does not wait for a
long one. Each `OLDEST_TURN`th slice is for the oldest prompt, so that a long one is not put
off without end.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from worker.engine.prefill_budget import Prompt

OLDEST_TURN = 4


class PromptBatch(Protocol):
    """The part of mlx-lm's batch in prefill that is used."""

    def split(self, indices: list[int]) -> Any: ...

    def filter(self, keep: list[int]) -> None: ...


Batch = TypeVar("Batch", bound=PromptBatch)


@dataclass(slots=True)
class PromptRow:
    """One row in prefill: the segments that are left, and the numbers of its tokens.

    `cached` tokens came from the prompt cache; `computed` are those computed since, of
    `total`. The last token is a segment that is not prefilled: it is for the first decode step.
    """

    uid: int
    segments: list[list[int]]
    cached: int
    computed: int
    total: int

    @property
    def prompt(self) -> Prompt:
        """The tokens that its cache holds, and those left to prefill."""
        return Prompt(self.cached + self.computed, self.total - self.computed - 1)

    @property
    def progress(self) -> tuple[int, int]:
        """The tokens that are computed, and all."""
        return self.computed, self.total

    def take(self, tokens: int) -> tuple[list[int], bool]:
        """Remove the next tokens, at most to the end of a segment; whether it ended."""
        segment = self.segments[0]
        taken, rest = segment[:tokens], segment[tokens:]
        self.segments[:1] = [rest] if rest else []
        self.computed += len(taken)
        return taken, not rest


@dataclass(slots=True)
class PrefillBatch(Generic[Batch]):
    """Rows that are prefilled together, and the batch with their caches."""

    rows: list[PromptRow]
    batch: Batch

    @property
    def left(self) -> int:
        """The most tokens that are left of a row."""
        return max(row.prompt.left for row in self.rows)

    @property
    def context(self) -> int:
        """The most tokens that a row's cache holds."""
        return max(row.prompt.computed for row in self.rows)

    def split(self, indices: Sequence[int]) -> PrefillBatch[Batch]:
        """Move these rows, but not all, into another batch; the caches are copied."""
        rows, moved = self.rows, set(indices)
        self.rows = [row for index, row in enumerate(rows) if index not in moved]
        taken = [row for index, row in enumerate(rows) if index in moved]
        return PrefillBatch(taken, self.batch.split(sorted(moved)))

    def keep_except(self, uids: Collection[int]) -> bool:
        """Remove the rows with these uids; whether any row is left."""
        keep = [index for index, row in enumerate(self.rows) if row.uid not in uids]
        if 0 < len(keep) < len(self.rows):
            self.batch.filter(keep)
        self.rows = [self.rows[index] for index in keep]
        return bool(keep)


class PrefillTurns:
    """Counts the slices, and orders the prompts for the next one."""

    def __init__(self) -> None:
        self._slices = itertools.count(1)

    def order(self, prompts: Sequence[tuple[int, int]]) -> list[int]:
        """The indices of these prompts, each with its number of arrival and its tokens left."""
        indices = range(len(prompts))
        order = sorted(indices, key=lambda index: (prompts[index][1], prompts[index][0]))
        if order and next(self._slices) % OLDEST_TURN == 0:
            oldest = min(indices, key=lambda index: prompts[index][0])
            order.remove(oldest)
            order.insert(0, oldest)
        return order
