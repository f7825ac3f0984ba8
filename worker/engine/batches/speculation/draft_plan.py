"""How many drafted tokens of each row the next pass verifies: what is expected to be quickest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.drafts.drafter import NO_DRAFT, Draft
from worker.engine.batches.speculation.pass_costs import PassCosts
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


def draft_rows(
    candidates: Sequence[Candidate], costs: PassCosts, *, prompts_wait: bool = False
) -> list[Draft] | None:
    """The drafts of the rows behind their next tokens; None where a pass without is quicker.

    Of a row whose next token is not known its draft begins with that token. `prompts_wait`: there
    are prompts in prefill, which take turns with the passes.
    """
    drafts = [draft_row(each) for each in candidates]
    if not any(draft.tokens for draft in drafts):
        return None
    gains = [list_gains(draft, each) for draft, each in zip(drafts, candidates, strict=True)]
    best, best_gain = 0, LEAST_GAIN
    rows = len(candidates)
    for count in range(1, max(map(len, gains)) + 1):
        expected = [1.0 + sum(each[:count]) for each in gains]
        cost = costs.relative(rows, count + 1)
        if cost > MAX_STRETCH * (1.0 if prompts_wait else min(expected)):
            # The cost grows with the places; a row's gain may end before.
            continue
        gain = sum(expected) / rows / cost
        if gain > best_gain:
            best, best_gain = count, gain
    if not best:
        return None
    return [Draft(draft.tokens[:best], draft.rates[:best]) for draft in drafts]


def draft_row(candidate: Candidate) -> Draft:
    """The most tokens that may be drafted for one row: none behind a stop token."""
    row = candidate.row
    if row.drafter is None or row.depends_on_history or candidate.tokens_left < 1:
        return NO_DRAFT
    # Its logits processors change with the position until then.
    if row.position < row.sampling.min_tokens or candidate.pending in row.stop_token_ids:
        return NO_DRAFT
    count = min(MAX_DRAFT_TOKENS, candidate.tokens_left) + (candidate.pending is None)
    draft = row.drafter.draft(count)
    for index, token in enumerate(draft.tokens):
        if token in row.stop_token_ids:
            return Draft(draft.tokens[: index + 1], draft.rates[: index + 1])
    return draft


def list_gains(draft: Draft, candidate: Candidate) -> list[float]:
    """How likely each drafted token, and all before it, are right."""
    gains, likely = [], 1.0
    for rate in draft.rates:
        likely *= rate
        gains.append(likely)
    return gains[1:] if candidate.pending is None else gains
