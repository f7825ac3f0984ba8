"""Decides before each pass of a batch whether it verifies drafts.

A pass without drafts is put up before the tokens of the last one are read. A pass with drafts needs
these tokens first, so they are waited for only where a draft is expected to pay.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from protocol.stats import DraftedTokens
from worker.drafts.drafter import Draft
from worker.drafts.source import BatchSource, DraftOrigin
from worker.engine.batches.speculation.draft_plan import (
    Candidate,
    DraftSize,
    choose_size,
    draft_row,
    list_gains,
)
from worker.engine.batches.speculation.model_drafts import ModelDrafts
from worker.engine.batches.speculation.pass_costs import PassCosts, reckon
from worker.engine.batches.speculation.plan_time import PlanTime
from worker.engine.batches.speculation.retries import Retries
from worker.engine.sampler import Row
from worker.engine.stopwatch import Stopwatch
from worker.memory.kv_cost import KVCost


@dataclass(frozen=True, slots=True)
class Drafts:
    """The next token of each row, and what is drafted behind it."""

    pending: list[int]
    drafts: list[Draft]

    @property
    def places(self) -> int:
        """The places of each row that a pass computes."""
        return 1 + max(len(draft.tokens) for draft in self.drafts)

    def inputs(self) -> list[list[int]]:
        """The tokens of each place; behind a shorter draft are any."""
        return [
            [token, *draft.tokens, *[0] * (self.places - 1 - len(draft.tokens))]
            for token, draft in zip(self.pending, self.drafts, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class DraftChoice:
    """The size of the drafts, what was looked up, and the rows for which a model drafts.

    `might_pay`: nothing is drafted because of what a pass is reckoned to cost.
    """

    size: DraftSize
    lookups: list[Draft]
    by_model: Sequence[int] = ()
    might_pay: bool = False


class PassTimer:
    """The time of a pass of this many `places`; 0 is a pass that is not measured."""

    def __init__(self) -> None:
        self.places = 0
        self._stopwatch: Stopwatch | None = None

    def start(self, places: int) -> None:
        """The pass begins now."""
        self.places = places
        self._stopwatch = Stopwatch() if places else None

    def read_s(self) -> float:
        """The seconds since the start; 0 where nothing is measured."""
        return 0.0 if self._stopwatch is None else self._stopwatch.read_s()


class Speculation:
    """The speculation of one model's batches, with what its passes cost.

    `model` is a source that computes, where there is one, and `kv_cost` that of its caches.
    `prompts_wait` is set while prompts are in prefill beside the rows.
    """

    def __init__(
        self,
        costs: PassCosts | None = None,
        model: BatchSource | None = None,
        kv_cost: KVCost | None = None,
    ) -> None:
        self._kv_cost = kv_cost
        self._costs = costs or PassCosts()
        self._model = ModelDrafts(model, self._costs) if model is not None else None
        self._retries = Retries()
        self._plan_time = PlanTime()
        self._might_pay = False
        self._counts: Counter[tuple[DraftOrigin, bool]] = Counter()
        self.prompts_wait = False

    def plan(
        self, rows: Sequence[Row], tokens_left: Sequence[int], read: Callable[[], list[int]]
    ) -> Drafts | None:
        """The drafts of the next pass; None where none is expected to pay.

        `tokens_left` are those that each row may have after its next one, which `read` waits for.
        """
        if all(row.drafter is None for row in rows):
            return None
        is_due = self._plan_time.is_due(rows) or self._retries.is_due
        if self._model is None and not is_due:
            self._refuse()
            return None
        # The thread's own time: the search may wait for the device.
        started_s = time.thread_time()
        drafts = self._search(rows, tokens_left, read)
        self._plan_time.count_search(time.thread_time() - started_s, in_vain=drafts is None)
        return drafts

    def _search(
        self, rows: Sequence[Row], tokens_left: Sequence[int], read: Callable[[], list[int]]
    ) -> Drafts | None:
        """Look for drafts; those of a source that computes are made."""
        candidates = list(map(Candidate, rows, tokens_left))
        if self._model is not None:
            self._model.prepare(candidates, prompts_wait=self.prompts_wait)
        plan = None if all(map(is_known, rows)) else self._choose(candidates)
        if plan is None or plan.size.count:
            pending = read()
            for row, token in zip(rows, pending, strict=True):
                learn(row, row.position - 1, token)
            candidates = list(map(Candidate, rows, tokens_left, pending))
            plan = self._choose(candidates)
            if (drafts := self._draft(candidates, plan)) is not None:
                self._retries.use()
                return Drafts(pending, drafts)
        self._might_pay = plan.might_pay
        self._refuse()
        if self._model is not None:
            self._model.skip(candidates, ())
        return None

    def _refuse(self) -> None:
        """A pass is not drafted: because of its cost, if the last search found that."""
        if self._might_pay:
            self._retries.refuse()

    def compute(self, model: nn.Module, tokens: mx.array, cache: list[Any]) -> mx.array:
        """The logits of a pass: [slots, places, vocabulary]."""
        if self._model is None:
            logits: mx.array = model(tokens, cache=cache)
            return logits
        return self._model.compute(model, tokens, cache)

    def follow(self, rows: Sequence[Row], slots: Sequence[int], kept: Sequence[int]) -> None:
        """Tell the source how many places of the last pass each of these rows keeps."""
        if self._model is not None:
            self._model.follow(rows, slots, kept)

    def add_cost(self, cost: KVCost) -> KVCost:
        """The caches of a row of this cost, and those of its drafts."""
        return cost if self._kv_cost is None else cost.plus(self._kv_cost)

    def drop_model(self) -> None:
        """Free the source that computes."""
        self._model = None

    def release(self, row: Row) -> None:
        """Free what is kept of a row that has left its batch."""
        if self._model is not None and row.drafter is not None:
            self._model.release(row.drafter)

    @property
    def slack_bytes(self) -> int:
        """The bytes that the source which computes holds beyond what its rows need."""
        return 0 if self._source is None else self._source.slack_bytes

    def grow_within(self, spare_bytes: Callable[[], int]) -> None:
        """Let the source hold more than its rows need within these bytes."""
        if self._source is not None:
            self._source.grow_within(spare_bytes)

    def squeeze(self) -> None:
        """Let the source give up the slack."""
        if self._source is not None:
            self._source.squeeze()

    @property
    def _source(self) -> BatchSource | None:
        return None if self._model is None else self._model.source

    def count(self, row: Row, draft: Draft, accepted: int) -> None:
        """Count the tokens of a row's draft, of which the first ones were right."""
        rejected = len(draft.tokens) - accepted
        self._counts[draft.origin, True] += accepted
        self._counts[draft.origin, False] += rejected
        if draft.origin == "model" and row.drafter is not None:
            row.drafter.model_rate.count(accepted, rejected)

    def take_counts(self) -> list[DraftedTokens]:
        """The drafted tokens that were verified since this was called last, by their origin."""
        if not self._counts:
            return []
        counts, self._counts = self._counts, Counter()
        origins = sorted({origin for origin, _ in counts})
        return [DraftedTokens(each, counts[each, True], counts[each, False]) for each in origins]

    def _choose(self, candidates: list[Candidate]) -> DraftChoice:
        """How much is drafted, and by which source, so that the pass is the quickest."""
        lookups = [draft_row(each) for each in candidates]
        gains = [list_gains(*each) for each in zip(lookups, candidates, strict=True)]
        cheap = choose_size(gains, lambda count: reckon(count + 1), prompts_wait=self.prompts_wait)
        if self._retries.is_due and cheap.count:
            return DraftChoice(cheap, lookups)
        size, by_model = self._choose_by_cost(candidates, lookups, gains)
        return DraftChoice(size, lookups, by_model, might_pay=cheap.count > size.count == 0)

    def _choose_by_cost(
        self, candidates: list[Candidate], lookups: list[Draft], gains: list[list[float]]
    ) -> tuple[DraftSize, Sequence[int]]:
        size = choose_size(
            gains,
            lambda count: self._costs.relative(len(candidates), count + 1),
            prompts_wait=self.prompts_wait,
        )
        if self._model is None:
            return size, ()
        return self._model.improve(candidates, lookups, size, prompts_wait=self.prompts_wait)

    def _draft(self, candidates: list[Candidate], plan: DraftChoice) -> list[Draft] | None:
        """The drafts of a choice; None where there are none."""
        drafts = [draft.cut(plan.size.count) for draft in plan.lookups]
        if self._model is not None and plan.size.count:
            by_model = self._model.draft(candidates, plan.by_model, plan.size.count)
            self._model.skip(candidates, plan.by_model)
            drafts = [by_model.get(row, draft) for row, draft in enumerate(drafts)]
        return drafts if any(draft.tokens for draft in drafts) else None

    @contextmanager
    def measure(self, rows: int) -> Iterator[PassTimer]:
        """Measure the pass in this block; its block sets the timer's `places`."""
        timer = PassTimer()
        yield timer
        if timer.places:
            seconds = timer.read_s()
            self._costs.record(rows, timer.places, seconds)
            self._plan_time.count_pass(seconds)


def count_tokens_left(
    rows: Sequence[Row],
    tokens: Sequence[Sequence[int]],
    counts: Sequence[int],
    most: Sequence[int],
) -> list[int]:
    """The tokens that each row may have after its next one, of which it may have `most` in all.

    All rows are padded to the longest, and that stays within its room and its last token.
    """
    left = [limit - count - 1 for limit, count in zip(most, counts, strict=True)]
    longest = max(range(len(tokens)), key=lambda row: len(tokens[row]))
    bound = min(left[longest], rows[longest].room - 1)
    return [min(each, bound) for each in left]


def is_known(row: Row) -> bool:
    """Whether the drafter has the row's next token, or there is none."""
    return row.drafter is None or row.drafter.known_tokens >= row.position


def learn(row: Row, index: int, token: int) -> None:
    """Let the row's drafter have this token of its answer, unless it has it."""
    if row.drafter is not None:
        row.drafter.learn(index, token)
