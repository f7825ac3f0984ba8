"""Which prompts are in the next slice of prefill.

A prompt of the lowest `priority` comes first; of these the one with the fewest tokens left, so
that a short prompt does not wait for a long one.

Nobody starves: each `OLDEST_TURN`th slice is for the oldest prompt, whatever its priority and
length. So a prompt that first come, first served would have computed after n slices, those of
older prompts included, is computed after at most `OLDEST_TURN` * n, whatever arrives behind it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from worker.cache.known_prompts import Closest
from worker.cache.prefix_cache import PrefixReuse
from worker.engine.prefill_budget import Prompt
from worker.engine.sampler import Row

OLDEST_TURN = 4


class Turn(NamedTuple):
    """A prompt, or a batch of some, that may have the next slice.

    `priority` is the lowest of its prompts, `left` the fewest tokens that are left of one, and
    `arrival` the number of the oldest.
    """

    priority: int
    left: int
    arrival: int


class PromptBatch(Protocol):
    """The part of mlx-lm's batch in prefill that is used."""

    def split(self, indices: list[int]) -> Any: ...

    def filter(self, keep: list[int]) -> None: ...


Batch = TypeVar("Batch", bound=PromptBatch)


@dataclass(frozen=True, slots=True)
class PrefillingRow:
    """A row that waits for prefill or is in it."""

    row: Row
    prompt: list[int]
    cached_tokens: int


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
    priority: int = 0

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
    def turn(self) -> Turn:
        """What the order of turns depends on; of a batch that has tokens left."""
        rows = [row for row in self.rows if row.prompt.left]
        return Turn(
            min(row.priority for row in rows),
            min(row.prompt.left for row in rows),
            min(row.uid for row in rows),
        )

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

    def order(self, prompts: Sequence[Turn]) -> list[int]:
        """The indices of these prompts, the next one first; called once for each slice."""
        indices = range(len(prompts))
        order = sorted(indices, key=lambda index: prompts[index])
        if order and next(self._slices) % OLDEST_TURN == 0:
            oldest = min(indices, key=lambda index: prompts[index].arrival)
            order.remove(oldest)
            order.insert(0, oldest)
        return order


def reuse_of_sibling(shared: PrefillingRow) -> PrefixReuse:
    """What a row reuses that shares the prefill of this one, which has the same prompt."""
    reuse, tokens = shared.row.reuse, len(shared.prompt)
    return PrefixReuse(
        reuse.memory_tokens,
        reuse.disk_tokens,
        shared_tokens=tokens - reuse.cached_tokens,
        closest=Closest(tokens),
    )


def split_prompt(
    prompt: list[int], start: int, breakpoints: Sequence[int], replayed: int = 0
) -> list[list[int]]:
    """The prompt from `start` on, in segments that end at breakpoints and before its last token.

    Each of its `replayed` last tokens is a segment, and the one before them.
    """
    whole = len(prompt) - 1 - replayed
    ends = sorted({start, *range(whole, len(prompt) + 1), *breakpoints})
    ends = [end for end in ends if start <= end <= len(prompt)]
    return [prompt[begin:end] for begin, end in pairwise(ends)]
