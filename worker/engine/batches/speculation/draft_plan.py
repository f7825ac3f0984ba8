"""How many drafted tokens of each row the next pass verifies: what is expected to be quickest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from worker.drafts.drafter import NO_DRAFT, Draft
from worker.engine.sampler import Row

# The most tokens of a row that a pass verifies; the check of a model tries as many.
MAX_DRAFT_TOKENS = 6
# How much longer others may wait for a pass because of drafts: each row for what it is expected to
# get from the pass, and a prompt in prefill for its turn.
MAX_STRETCH = 1.5
# How much quicker a pass with drafts is expected to be: the expectation may be wrong.
LEAST_GAIN = 1.05


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that may be drafted, with the tokens that it may have after its next one.

    `pending` is its next token, None where the device still computes it.
    """

    row: Row
    tokens_left: int
    pending: int | None = None


@dataclass(frozen=True, slots=True)
class DraftSize:
    """How many tokens are drafted of each row; a pass then gives `gain` times as much a second."""

    count: int = 0
    gain: float = LEAST_GAIN


def choose_size(
    gains: Sequence[Sequence[float]], cost: Callable[[int], float], *, prompts_wait: bool
) -> DraftSize:
    """The quickest size by the rows' gains; `cost` is that of a pass with so many drafted tokens.

    `prompts_wait`: there are prompts in prefill, which take turns with the passes.
    """
    best = DraftSize()
    expected = [1.0] * len(gains)
    for count, of_rows in enumerate(zip_longest(*gains, fillvalue=0.0), 1):
        expected = [known + gain for known, gain in zip(expected, of_rows, strict=True)]
        cost_of_pass = cost(count)
        if cost_of_pass > MAX_STRETCH * (1.0 if prompts_wait else min(expected)):
            # The cost grows with the places; a row's gain may end before.
            continue
        gain = sum(expected) / len(gains) / cost_of_pass
        if gain > best.gain:
            best = DraftSize(count, gain)
    return best


def draft_row(candidate: Candidate) -> Draft:
    """The most tokens that may be drafted for one row: none behind a stop token."""
    if candidate.row.drafter is None or not (limit := limit_of(candidate)):
        return NO_DRAFT
    draft = candidate.row.drafter.draft(limit + (candidate.pending is None))
    return draft.cut(count_before_stop(draft.tokens, candidate.row))


def limit_of(candidate: Candidate) -> int:
    """How many tokens may be drafted for a row behind its next one."""
    row = candidate.row
    if row.drafter is None or row.depends_on_history or candidate.tokens_left < 1:
        return 0
    # Its logits processors change with the position until then.
    if row.position < row.sampling.min_tokens or candidate.pending in row.stop_token_ids:
        return 0
    return min(MAX_DRAFT_TOKENS, candidate.tokens_left)


def count_before_stop(tokens: Sequence[int], row: Row) -> int:
    """How many of these tokens may be drafted: up to the first stop token."""
    for index, token in enumerate(tokens, 1):
        if token in row.stop_token_ids:
            return index
    return len(tokens)


def list_gains(draft: Draft, candidate: Candidate) -> list[float]:
    """How likely each drafted token, and all before it, are right."""
    gains, likely = [], 1.0
    for rate in draft.rates:
        likely *= rate
        gains.append(likely)
    return gains[1:] if candidate.pending is None else gains
