"""Decides before each pass of a batch whether it verifies drafts.

A pass without drafts is put up before the tokens of the last one are read. A pass with drafts needs
these tokens first, so they are waited for only where a draft is expected to pay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from worker.drafts.drafter import Draft
from worker.engine.batches.speculation.draft_plan import Candidate, draft_rows
from worker.engine.batches.speculation.pass_costs import PassCosts
from worker.engine.sampler import Row
from worker.engine.stopwatch import Stopwatch


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


class PassTimer:
    """The time of a pass of this many `places`; 0 is a pass that is not measured."""

    def __init__(self) -> None:
        self.start(0)

    def start(self, places: int) -> None:
        """The pass begins now."""
        self.places = places
        self._stopwatch = Stopwatch()

    def read_s(self) -> float:
        """The seconds since the start."""
        return self._stopwatch.read_s()


class Speculation:
    """The speculation of one model's batches, with what its passes cost.

    `prompts_wait` is set while prompts are in prefill beside its rows.
    """

    def __init__(self, costs: PassCosts | None = None) -> None:
        self._costs = costs or PassCosts()
        self.prompts_wait = False

    def plan(
        self, rows: Sequence[Row], tokens_left: Sequence[int], read: Callable[[], list[int]]
    ) -> Drafts | None:
        """The drafts of the next pass; None where none is expected to pay.

        `tokens_left` are those that each row may have after its next one, which `read` waits for.
        """
        if all(row.drafter is None for row in rows):
            return None
        if not all(map(is_known, rows)) and not self._may_pay(rows, tokens_left):
            return None
        pending = read()
        for row, token in zip(rows, pending, strict=True):
            learn(row, row.position - 1, token)
        candidates = list(map(Candidate, rows, tokens_left, pending))
        drafts = self._choose(candidates)
        return None if drafts is None else Drafts(pending, drafts)

    def _may_pay(self, rows: Sequence[Row], tokens_left: Sequence[int]) -> bool:
        return self._choose(list(map(Candidate, rows, tokens_left))) is not None

    def _choose(self, candidates: list[Candidate]) -> list[Draft] | None:
        return draft_rows(candidates, self._costs, prompts_wait=self.prompts_wait)

    @contextmanager
    def measure(self, rows: int) -> Iterator[PassTimer]:
        """Measure the pass in this block; its block sets the timer's `places`."""
        timer = PassTimer()
        yield timer
        if timer.places:
            self._costs.record(rows, timer.places, timer.read_s())


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
