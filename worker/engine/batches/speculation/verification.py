"""Verifies drafts: draws at each place as if those before it were drawn one by one.

A draw is a pure function of the logits, the seed and the position, so a drafted token is right
if it is what is drawn. An answer has the same tokens with drafts and without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from worker.drafts.drafter import Draft
from worker.engine.sampler import Row, Sample, draw_tokens
from worker.engine.token_logprobs import PendingScore, score_rows


@dataclass(frozen=True, slots=True)
class Verified:
    """What a row's pass gives: the drafted tokens that are right, and what is drawn after them.

    `scores` has one for each of these tokens.
    """

    accepted: list[int]
    following: int
    scores: list[PendingScore | None]


class Verification:
    """The draws of one pass, on the device until they are read.

    `logits` are of [slots, places, vocabulary]; the rows have these `slots`, and their drafts
    are behind the first place.
    """

    def __init__(
        self,
        logits: mx.array,
        slots: Sequence[int],
        rows: Sequence[Row],
        drafts: Sequence[Draft],
        sample: Sample,
    ) -> None:
        self._rows = rows
        self._drafts = drafts
        lengths = [len(draft.tokens) + 1 for draft in drafts]
        slot_of = [slot for slot, length in zip(slots, lengths, strict=True) for _ in range(length)]
        place_of = [place for length in lengths for place in range(length)]
        drawn_rows = [
            each
            for row, length in zip(rows, lengths, strict=True)
            for each in list_draws(row, length)
        ]
        taken = logits[mx.array(slot_of), mx.array(place_of)]
        self._drawn = draw_tokens(taken, drawn_rows, sample)
        self._scores, scores = score_rows(taken, self._drawn, [row.logprobs for row in drawn_rows])
        mx.async_eval(self._drawn, scores)

    def read(self) -> list[Verified]:
        """Wait for the draws; what each row's pass gives. Advances the rows' positions."""
        drawn: list[int] = self._drawn.tolist()  # type: ignore[assignment]
        results, start = [], 0
        for row, draft in zip(self._rows, self._drafts, strict=True):
            tokens, accepted = list(draft.tokens), 0
            while accepted < len(tokens) and drawn[start + accepted] == tokens[accepted]:
                accepted += 1
            if tokens:
                row.position += accepted + 1
            end = start + accepted + 1
            scores = self._scores[start:end]
            results.append(Verified(tokens[:accepted], drawn[end - 1], scores))
            start += len(tokens) + 1
        return results


def list_draws(row: Row, places: int) -> list[Row]:
    """The row at each of its places. A row without a draft is itself, and advances."""
    if places == 1:
        return [row]
    return [replace(row, position=row.position + place) for place in range(places)]
