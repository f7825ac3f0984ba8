"""Which rows decode in one batch: those whose padding costs less than another pass of the model.

In a batch every row is as long as the longest, and a step reads all of that. Where short
rows would be padded to a very long one, they decode in a batch of their own, which reads the
weights once more. Batches become one again when rows have left and it pays.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

from worker.cache.kv_cost import KVCost

# What a pass takes even of a model without weights, as bytes that could be read meanwhile.
PASS_BYTES = 4 << 20
# Becoming one copies all rows, so it must be worth more than staying apart was.
MERGE_SHARE = 0.5


class DecodingBatch(Protocol):
    """What is needed of one batch; `tokens` are those that its rows' caches hold."""

    uids: list[int]
    tokens: list[list[int]]
    prompt_cache: list[Any]

    def __len__(self) -> int: ...

    def extend(self, batch: Self) -> None: ...

    def filter(self, keep: list[int]) -> None: ...

    def extract_cache(self, idx: int) -> list[Any]: ...

    def next(self) -> list[Any]: ...


Batch = TypeVar("Batch", bound=DecodingBatch)


class PaddingCost:
    """What rows of unlike lengths cost in one batch, in bytes that a step reads for nothing."""

    def __init__(self, cost: KVCost, weight_bytes: int) -> None:
        self._cost = cost
        self.pass_bytes = weight_bytes + PASS_BYTES

    def padding_bytes(self, lengths: Sequence[int]) -> int:
        """The bytes of padding where rows of these lengths, in tokens, are one batch."""
        padded = self._cost.batch_bytes(len(lengths), max(lengths))
        return padded - sum(self._cost.batch_bytes(1, length) for length in lengths)


class DecodeGroups(Generic[Batch]):
    """Batches that mlx-lm's scheduler takes for one: rows are numbered through all of them."""

    def __init__(self, padding: PaddingCost) -> None:
        self._padding = padding
        self._batches: list[Batch] = []

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    @property
    def uids(self) -> list[int]:
        return [uid for batch in self._batches for uid in batch.uids]

    @property
    def tokens(self) -> list[list[int]]:
        return [tokens for batch in self._batches for tokens in batch.tokens]

    @property
    def prompt_cache(self) -> list[Any]:
        """The layers' caches of every batch."""
        return [layer for batch in self._batches for layer in batch.prompt_cache]

    def extend(self, new: Batch) -> None:
        """Take rows into the batch with which they waste least, or into one of their own."""
        wasted = [(self._padding_bytes(batch, new), batch) for batch in self._batches]
        least, batch = min(wasted, key=lambda pair: pair[0], default=(0, None))
        if batch is None or least > self._padding.pass_bytes:
            self._batches.append(new)
        else:
            batch.extend(new)

    def filter(self, keep: list[int]) -> None:
        """Keep these rows only."""
        first = 0
        for batch in self._batches:
            size = len(batch)
            ours = [place - first for place in keep if first <= place < first + size]
            if len(ours) < size:
                batch.filter(ours)
            first += size
        self._settle()

    def extract_cache(self, idx: int) -> list[Any]:
        """One row's layers."""
        for batch in self._batches:
            if idx < len(batch):
                return batch.extract_cache(idx)
            idx -= len(batch)
        raise IndexError("no such row")

    def next(self) -> list[Any]:
        """One token of every row, in their order."""
        before = len(self)
        responses = [response for batch in self._batches for response in batch.next()]
        if len(self) < before:
            self._settle()
        return responses

    def _settle(self) -> None:
        """Forget empty batches, and make one of two where that pays now."""
        self._batches = [batch for batch in self._batches if len(batch)]
        for some, others in itertools.combinations(self._batches, 2):
            if self._padding_bytes(some, others) <= self._padding.pass_bytes * MERGE_SHARE:
                some.extend(others)
                self._batches.remove(others)
                return

    def _padding_bytes(self, *batches: Batch) -> int:
        return self._padding.padding_bytes([len(row) for batch in batches for row in batch.tokens])
