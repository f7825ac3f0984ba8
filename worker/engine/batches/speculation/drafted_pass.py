"""One pass of a batch that verifies drafts, and the tokens that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from protocol.events import FinishReason
from worker.drafts.drafter import Draft
from worker.engine.batches.speculation.speculation import Drafts, Speculation, learn
from worker.engine.batches.speculation.verification import Verification, Verified
from worker.engine.sampler import Row
from worker.engine.token_logprobs import PendingScore


@dataclass(frozen=True, slots=True)
class DraftedCounts:
    """What a token of a pass counts for: it was drafted itself, or the row's drafts were wrong.

    The row's first token has those that were `rejected`. `behind` are the right ones behind the
    token, which come to nothing where the answer ends with it.
    """

    accepted: int = 0
    rejected: int = 0
    behind: int = 0


NO_DRAFTS = DraftedCounts()


@dataclass(slots=True)
class VerifiedToken:
    """A token of a pass with drafts, with the fields of mlx-lm's tokens."""

    uid: int
    token: int
    logprobs: PendingScore | None
    drafted: DraftedCounts
    finish_reason: FinishReason | None = None
    prompt_cache: list[Any] | None = None
    all_tokens: list[int] | None = None


class DraftingBatch(Protocol):
    """The part of a batch that a pass needs; the methods are those of `RowGenerationBatch`."""

    uids: list[int]
    samplers: list[Row]
    tokens: list[list[int]]

    def compute_places(self, tokens: list[list[int]]) -> mx.array: ...

    def draw_places(self, logits: mx.array, drafts: list[Draft]) -> Verification: ...

    def keep_places(self, kept: Sequence[int], places: int) -> None: ...

    def count_tokens(self, row: int, tokens: list[int]) -> FinishReason | None: ...

    def continue_with(
        self, tokens: list[int], scores: list[PendingScore | None]
    ) -> list[PendingScore | None]: ...

    def extract_cache(self, idx: int) -> list[Any]: ...

    def filter(self, keep: list[int]) -> None: ...


def run_drafted_pass(batch: DraftingBatch, drafts: Drafts, speculation: Speculation) -> list[Any]:
    """Compute the places of the drafts; the tokens of all rows, in their order.

    What is computed for wrong tokens leaves the caches. A row's last drawn token is its next one.
    """
    logits = batch.compute_places(drafts.inputs())
    results = batch.draw_places(logits, drafts.drafts).read()
    batch.keep_places([1 + len(each.accepted) for each in results], drafts.places)
    scores = batch.continue_with(
        [each.following for each in results], [each.scores[-1] for each in results]
    )
    responses: list[VerifiedToken] = []
    keep = []
    for row, result in enumerate(results):
        tokens = [drafts.pending[row], *result.accepted]
        counts = list_counts(len(result.accepted), len(drafts.drafts[row].tokens))
        of_row = [
            VerifiedToken(batch.uids[row], *each)
            for each in zip(tokens, [scores[row], *result.scores[:-1]], counts, strict=True)
        ]
        speculation.count(batch.samplers[row], drafts.drafts[row], len(result.accepted))
        reason = batch.count_tokens(row, tokens)
        if reason is None:
            keep.append(row)
            learn_result(batch.samplers[row], result)
        else:
            last = of_row[-1]
            last.finish_reason, last.all_tokens = reason, batch.tokens[row]
            last.prompt_cache = batch.extract_cache(row)
        responses += of_row
    if len(keep) < len(results):
        batch.filter(keep)
    return responses


def list_counts(accepted: int, drafted: int) -> list[DraftedCounts]:
    """What each token of a row counts for: its next one, and those that were drafted right."""
    if not drafted:
        return [NO_DRAFTS]
    first = DraftedCounts(rejected=drafted - accepted, behind=accepted)
    rest = [DraftedCounts(accepted=1, behind=accepted - place) for place in range(1, accepted + 1)]
    return [first, *rest]


def learn_result(row: Row, result: Verified) -> None:
    """Let the row's drafter have the tokens that are drawn."""
    start = row.position - len(result.accepted) - 1
    for index, token in enumerate([*result.accepted, result.following], start):
        learn(row, index, token)
