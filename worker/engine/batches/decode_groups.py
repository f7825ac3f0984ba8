"""Which rows decode in one batch.

In a batch every row is padded to the longest, and a step reads the padding too. Rows
decode in another batch where their padding would cost more than another pass of the
model, which reads the weights once more. Batches are merged when rows have left and one
batch costs less. A batch of a row alone is never merged. A batch whose model raises is dropped,
and the others go on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, Self, TypeVar

from worker.engine.batches.model_errors import FailedCalls
from worker.engine.batches.speculation.cost_curve import CostCurve
from worker.memory.kv_cost import KVCost

# The cost of a pass that is not measured, even of a model without weights, as bytes that could be
# read meanwhile.
PASS_BYTES = 4 << 20
# A merge copies all rows, so two batches are merged only where the padding costs less than this
# share of a pass.
MERGE_SHARE = 0.5


class DecodingBatch(Protocol):
    """The part of mlx-lm's batch that is used; `tokens` are those that the rows' caches hold.

    `is_alone`: its one row is never joined by others.
    """

    is_alone: bool
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
    """The cost of padding rows to one length, in bytes that a step reads in vain.

    `curve` may be filled later: from then on a pass costs what was measured.
    """

    def __init__(self, cost: KVCost, weight_bytes: int, curve: CostCurve | None = None) -> None:
        self._cost = cost
        self._reckoned_bytes = weight_bytes + PASS_BYTES
        self._curve = curve or CostCurve()

    @property
    def pass_bytes(self) -> int:
        """What another pass costs, in such bytes."""
        return self._curve.pass_bytes() or self._reckoned_bytes

    def padding_bytes(self, lengths: Sequence[int]) -> int:
        """The bytes of padding of one batch with rows of these lengths, in tokens."""
        padded = self._cost.batch_bytes(len(lengths), max(lengths))
        return padded - sum(self._cost.batch_bytes(1, length) for length in lengths)


class DecodeGroups(Generic[Batch]):
    """Several batches with the interface of one; row numbers count through all batches."""

    def __init__(self, padding: PaddingCost, failed_calls: FailedCalls) -> None:
        self._padding = padding
        self._failed_calls = failed_calls
        self._batches: list[Batch] = []

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    @property
    def batches(self) -> Sequence[Batch]:
        """The batches, which are computed in turn."""
        return self._batches

    @property
    def uids(self) -> list[int]:
        return [uid for batch in self._batches for uid in batch.uids]

    @property
    def tokens(self) -> list[list[int]]:
        return [tokens for batch in self._batches for tokens in batch.tokens]

    @property
    def prompt_cache(self) -> list[Any]:
        """The caches of all layers of every batch."""
        return [layer for batch in self._batches for layer in batch.prompt_cache]

    def extend(self, new: Batch) -> None:
        """Add rows to the batch where they cost the least padding, or as a batch of their own."""
        joinable = [] if new.is_alone else [b for b in self._batches if not b.is_alone]
        costs = [(self._padding_bytes(batch, new), batch) for batch in joinable]
        lowest_bytes, batch = min(costs, key=lambda pair: pair[0], default=(0, None))
        if batch is None or lowest_bytes > self._padding.pass_bytes:
            self._batches.append(new)
        else:
            self._join(batch, new)

    def filter(self, keep: list[int]) -> None:
        """Keep only these rows."""
        first = 0
        for batch in list(self._batches):
            size = len(batch)
            kept = [index - first for index in keep if first <= index < first + size]
            if len(kept) < size:
                with self._attempt(batch):
                    batch.filter(kept)
            first += size
        self._regroup()

    def extract_cache(self, idx: int) -> list[Any]:
        """The layers' caches of one row.

        Raises:
            IndexError: there is no such row.
        """
        for batch in self._batches:
            if idx < len(batch):
                return batch.extract_cache(idx)
            idx -= len(batch)
        raise IndexError("no such row")

    def next(self) -> list[Any]:
        """One token for each row, in the order of the rows; none for those of a failed call."""
        before = len(self)
        responses: list[Any] = []
        for batch in list(self._batches):
            with self._attempt(batch):
                responses += batch.next()
        if len(self) < before:
            self._regroup()
        return responses

    @contextmanager
    def _attempt(self, *batches: Batch) -> Iterator[None]:
        """Drop these batches where the block, which changes them, fails."""
        uids = [uid for batch in batches for uid in batch.uids]
        with self._failed_calls.attempt(uids) as attempt:
            yield
        if attempt.failed:
            self._batches = [batch for batch in self._batches if batch not in batches]

    def _join(self, batch: Batch, new: Batch) -> None:
        with self._attempt(batch, new):
            batch.extend(new)

    def _regroup(self) -> None:
        """Drop empty batches, and merge one pair of batches where that costs less."""
        self._batches = [batch for batch in self._batches if len(batch)]
        joinable = [batch for batch in self._batches if not batch.is_alone]
        for first, second in itertools.combinations(joinable, 2):
            if self._padding_bytes(first, second) <= self._padding.pass_bytes * MERGE_SHARE:
                self._batches.remove(second)
                self._join(first, second)
                return

    def _padding_bytes(self, *batches: Batch) -> int:
        return self._padding.padding_bytes([len(row) for batch in batches for row in batch.tokens])
