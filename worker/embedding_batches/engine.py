"""The texts of one model that are to be computed, by request, in device calls of similar lengths.

Requests take turns as prompts in prefill do: the one with the fewest tokens left comes first, and
each fourth call is for the oldest. So a list of thousands of texts does not delay a single one.
A call may be computed in parts, one after the other, with steps of other models between them.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from worker.embedding_batches.text_budget import TextBudget
from worker.engine.batches.model_errors import MODEL_ERRORS, FailedRow
from worker.engine.batches.prefill_turns import PrefillTurns, Turn

# Texts share a call if the longest is at most this much longer than the shortest: padding is
# computed, too.
PADDING_SHARE, PADDING_TOKENS = 1.25, 16

Values = np.ndarray[Any, np.dtype[np.float32]]
# How many steps beside decoding rows a call is planned for. More texts share a call then, and a
# small request waits longer.
STEPS_PER_CALL = 16
# The work of a part, in tokens, before a speed is measured.
FIRST_PART_TOKENS = 2.0


class Compute(Protocol):
    """Sets up rows of token ids: arrays, each made of those before, the last with the results
    [rows, values]. With `part_tokens` none has more work than so many tokens."""

    def __call__(
        self, rows: list[list[int]], part_tokens: float | None = None
    ) -> deque[mx.array]: ...


class Computed(NamedTuple):
    """The results of some texts of one request, by their indices in it."""

    id: int
    indices: list[int]
    values: Values


@dataclass(slots=True)
class WaitingTexts:
    """The texts of one request that are not computed, the shortest first; those of `alone`
    requests share no call with others."""

    id: int
    arrival: int
    rows: dict[int, Sequence[int]]
    alone: bool = False
    priority: int = 0
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = dict(sorted(self.rows.items(), key=lambda item: len(item[1])))
        self.tokens = sum(map(len, self.rows.values()))

    def take(self, index: int) -> None:
        """Drop a text that is computed."""
        self.tokens -= len(self.rows.pop(index))


@dataclass(slots=True)
class Call:
    """One device call: its texts by request and index, and the parts that are left of it.

    `part_s` is how long a part is expected to take; 0 is unknown.
    """

    texts: list[tuple[int, int]]
    rows: list[list[int]]
    parts: deque[mx.array] = field(default_factory=deque)
    part_s: float = 0.0
    elapsed_s: float = 0.0
    last: mx.array | None = None
    is_sliced: bool = False

    @property
    def tokens(self) -> int:
        """The length of all rows with their padding."""
        return max(map(len, self.rows))

    def take(self, seconds: float) -> int:
        """Take the parts that are expected to fit this time, one at least; how many they are.

        Slices take unlike times, so they are computed one by one.
        """
        fitting = seconds / self.part_s if self.part_s and not self.is_sliced else 1.0
        count = len(self.parts) if fitting >= len(self.parts) else max(int(fitting), 1)
        for _ in range(count):
            self.last = self.parts.popleft()
        return count


class EmbeddingEngine:
    """The requests of one model. Without `batched` each text is a call of its own, without
    `sliced` no part of a call is shorter than a layer's attention, or what follows it."""

    def __init__(
        self,
        compute: Compute,
        budget: TextBudget,
        *,
        batched: bool = True,
        sliced: bool = True,
    ) -> None:
        self._compute = compute
        self._budget = budget
        self._batched = batched
        self._sliced = sliced
        self._turns = PrefillTurns()
        self._requests: dict[int, WaitingTexts] = {}
        self._arrivals = 0
        self._call: Call | None = None
        self._failed: list[FailedRow] = []

    def __len__(self) -> int:
        return len(self._requests)

    def longest(self, limit_tokens: int) -> int:
        """The most tokens of a text that the memory for prefill can hold."""
        return self._budget.longest(limit_tokens)

    def insert(
        self,
        id: int,
        rows: Mapping[int, Sequence[int]],
        *,
        alone: bool = False,
        priority: int = 0,
    ) -> None:
        """Queue the texts of a request, token ids by index."""
        self._arrivals += 1
        self._requests[id] = WaitingTexts(id, self._arrivals, dict(rows), alone, priority)

    def left(self, id: int) -> dict[int, Sequence[int]]:
        """The texts of a request that are not computed."""
        return self._requests[id].rows

    def remove(self, ids: Iterable[int]) -> None:
        """Remove requests; a call in progress that has no other texts ends. Unknown ids pass."""
        for id in ids:
            self._requests.pop(id, None)
        if self._call is not None and not any(id in self._requests for id, _ in self._call.texts):
            self._call = None

    def take_failed(self) -> list[FailedRow]:
        """Remove and return the requests whose call the model's code has failed."""
        failed, self._failed = self._failed, []
        return failed

    def step(self, begin: Callable[[float], None], longest_s: float) -> list[Computed]:
        """Compute the next part of a call, or several that take at most `longest_s` together.

        It is infinite where no rows decode; a call takes no longer than a slice of prefill even
        then. `begin` is called before with the seconds that this is expected to take.

        Raises:
            RuntimeError: the device failed; the state of this process cannot be trusted.
        """
        call = self._call = self._call or self._plan(longest_s)
        if call is None:
            return []
        rest_s = self._budget.expect(len(call.rows), call.tokens) - call.elapsed_s
        begin(max(rest_s, 0.0))
        try:
            if call.last is None:
                self._set_up(call, longest_s)
            is_complete = self._advance(call, min(longest_s, self._budget.slice_s))
        except MODEL_ERRORS as error:
            self._call = None
            self._fail(call, error)
            return []
        if not is_complete:
            return []
        self._call = None
        self._budget.record(call.elapsed_s, len(call.rows), call.tokens)
        return self._take(call)

    def _set_up(self, call: Call, longest_s: float) -> None:
        """Make the parts of a call, which computes nothing; slices beside decoding rows."""
        expected_s = self._budget.expect(len(call.rows), call.tokens)
        call.is_sliced = self._sliced and math.isfinite(longest_s)
        if call.is_sliced:
            tokens = len(call.rows) * call.tokens
            fitting = longest_s / expected_s * tokens if expected_s else FIRST_PART_TOKENS
            call.parts = self._compute(call.rows, fitting)
        else:
            call.parts = self._compute(call.rows)
        call.part_s = expected_s / len(call.parts)

    def _advance(self, call: Call, longest_s: float) -> bool:
        """Compute parts until the time is over; whether the call is complete."""
        began = now = time.perf_counter()
        while call.parts and (now == began or now - began + call.part_s <= longest_s):
            count = call.take(longest_s - (now - began))
            mx.eval(call.last)
            before, now = now, time.perf_counter()
            call.part_s = (now - before) / count
        call.elapsed_s += now - began
        return not call.parts

    def _plan(self, longest_s: float) -> Call | None:
        """The next call: texts of similar lengths, of the request that is next and of others."""
        requests = [request for request in self._requests.values() if request.rows]
        order = self._turns.order(
            [Turn(each.priority, each.tokens, each.arrival) for each in requests]
        )
        if not order:
            return None
        first, *others = [requests[index] for index in order]
        texts = list(self._choose(first, others))
        rows = [self._requests[id].rows[index] for id, index in texts]
        seconds = min(longest_s * STEPS_PER_CALL, self._budget.slice_s)
        count = self._budget.plan([len(row) for row in rows], seconds)
        return Call(texts[:count], [list(row) for row in rows[:count]])

    def _choose(
        self, first: WaitingTexts, others: Sequence[WaitingTexts]
    ) -> Iterator[tuple[int, int]]:
        """The texts that may share a call with the shortest one of `first`, that one first."""
        shortest = len(next(iter(first.rows.values())))
        widest = max(shortest * PADDING_SHARE, shortest + PADDING_TOKENS)
        for request in (first, *others):
            if request is not first and (first.alone or request.alone):
                continue
            for index, row in request.rows.items():
                if shortest <= len(row) <= widest:
                    yield request.id, index
                    if not self._batched:
                        return

    def _take(self, call: Call) -> list[Computed]:
        """The results by request, without those of requests that are gone."""
        assert call.last is not None
        values = np.array(call.last.astype(mx.float32))
        positions: dict[int, list[int]] = {}
        for position, (id, _) in enumerate(call.texts):
            positions.setdefault(id, []).append(position)
        computed = []
        for id, own in positions.items():
            if id not in self._requests:
                continue
            indices = [call.texts[position][1] for position in own]
            for index in indices:
                self._requests[id].take(index)
            computed.append(Computed(id, indices, values[own]))
        return computed

    def _fail(self, call: Call, error: BaseException) -> None:
        """Drop the requests in a call that failed."""
        for id in {id for id, _ in call.texts if id in self._requests}:
            self._failed.append(FailedRow(id, error))
