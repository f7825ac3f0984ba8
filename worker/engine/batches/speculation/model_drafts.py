"""Which rows a draft model drafts for, where its passes are expected to pay too.

What is looked up costs nothing, and comes first where it is as likely to be right. A row whose
drafts of the model are wrong is not drafted by it, and tried again ever more rarely.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from worker.drafts.drafter import Draft, Drafter
from worker.drafts.source import BatchSource, KeptPlaces, StateSource
from worker.engine.batches.model_errors import MODEL_ERRORS, describe_error
from worker.engine.batches.speculation.draft_plan import (
    Candidate,
    DraftSize,
    choose_size,
    count_before_stop,
    limit_of,
    list_gains,
)
from worker.engine.batches.speculation.pass_costs import PassCosts
from worker.engine.sampler import Row

logger = logging.getLogger(__name__)


class ModelDrafts:
    """Drafts of one source, `model`, which is dropped if it fails."""

    def __init__(self, model: BatchSource, costs: PassCosts) -> None:
        self._model: BatchSource | None = model
        self._reader = model if isinstance(model, StateSource) else None
        self._states: mx.array | None = None
        self._costs = costs

    def compute(self, model: nn.Module, tokens: mx.array, cache: list[Any]) -> mx.array:
        """The logits behind these tokens; the states are kept for `follow` if they are read."""
        if self._reader is None:
            logits: mx.array = model(tokens, cache=cache)
        else:
            logits, self._states = self._reader.compute(tokens, cache)
        return logits

    def follow(self, rows: Sequence[Row], slots: Sequence[int], kept: Sequence[int]) -> None:
        """Let the source have the states of what was computed last, if it reads them."""
        states, self._states = self._states, None
        if self._reader is None or states is None:
            return
        places = [
            KeptPlaces(row.drafter, slot, count)
            for row, slot, count in zip(rows, slots, kept, strict=True)
            if row.drafter is not None
        ]
        try:
            self._reader.follow(states, places)
        except MODEL_ERRORS as error:
            self._give_up(error)

    def prepare(self, candidates: Sequence[Candidate], prompts_wait: bool) -> None:
        """Compute a part of the first text that is worth it and not computed, if any.

        It takes about as long as a pass.
        """
        lookups = [Draft() for _ in candidates]
        model = self._model
        if model is None:
            return
        wanted = self._rows(candidates, lookups, only_ready=False)
        late = [row for row in wanted if not model.is_ready(drafter_of(candidates[row]))]
        if not late or not self._size(candidates, lookups, wanted, prompts_wait).count:
            return
        try:
            pass_s = self._costs.single_s(len(candidates))
            model.prepare(drafter_of(candidates[late[0]]), pass_s)
        except MODEL_ERRORS as error:
            self._give_up(error)

    def improve(
        self,
        candidates: Sequence[Candidate],
        lookups: list[Draft],
        best: DraftSize,
        prompts_wait: bool,
    ) -> tuple[DraftSize, list[int]]:
        """The quicker size with drafts of the model, and the rows that it drafts for."""
        rows = self._rows(candidates, lookups, only_ready=True)
        if not rows:
            return best, []
        size = self._size(candidates, lookups, rows, prompts_wait)
        return (size, rows) if size.gain > best.gain else (best, [])

    def draft(
        self, candidates: Sequence[Candidate], rows: Sequence[int], count: int
    ) -> dict[int, Draft]:
        """The drafts of these rows; none if the model fails."""
        if not rows or self._model is None:
            return {}
        texts = [drafter_of(candidates[row]) for row in rows]
        try:
            proposed = self._model.propose(texts, count)
        except MODEL_ERRORS as error:
            self._give_up(error)
            return {}
        drafts = {}
        for row, tokens in zip(rows, proposed, strict=True):
            candidate = candidates[row]
            most = min(limit_of(candidate), count_before_stop(tokens, candidate.row))
            rate = drafter_of(candidate).model_rate.rate
            drafts[row] = Draft(tokens, [rate] * len(tokens), "model").cut(most)
        return drafts

    def skip(self, candidates: Sequence[Candidate], drafted: Sequence[int]) -> None:
        """Note that only these rows are drafted by the model."""
        for row, candidate in enumerate(candidates):
            drafter = candidate.row.drafter
            if row not in drafted and drafter is not None and self._is_ready(drafter):
                drafter.model_rate.skip()

    def release(self, drafter: Drafter) -> None:
        """Free what the model keeps of a row."""
        if self._model is not None:
            self._model.release(drafter)

    @property
    def source(self) -> BatchSource | None:
        """The model; None once it has failed."""
        return self._model

    def _is_ready(self, drafter: Drafter) -> bool:
        return self._model is not None and self._model.is_ready(drafter)

    def _rows(
        self, candidates: Sequence[Candidate], lookups: Sequence[Draft], *, only_ready: bool
    ) -> list[int]:
        """The rows for which the model is more likely to be right."""
        return [
            row
            for row, (candidate, draft) in enumerate(zip(candidates, lookups, strict=True))
            if limit_of(candidate)
            and drafter_of(candidate).model_rate.rate > (draft.rates[0] if draft.rates else 0.0)
            and (not only_ready or self._is_ready(drafter_of(candidate)))
        ]

    def _size(
        self,
        candidates: Sequence[Candidate],
        lookups: Sequence[Draft],
        rows: Sequence[int],
        prompts_wait: bool,
    ) -> DraftSize:
        """The quickest size if the model drafts for these rows."""
        gains = [list_gains(*each) for each in zip(lookups, candidates, strict=True)]
        for row in rows:
            rate = drafter_of(candidates[row]).model_rate.rate
            gains[row] = [rate**count for count in range(1, limit_of(candidates[row]) + 1)]
        count_rows = len(candidates)
        pass_s = self._model.pass_s() if self._model is not None else 0.0
        drafting = self._costs.in_passes(count_rows, pass_s)
        return choose_size(
            gains,
            lambda count: self._costs.relative(count_rows, count + 1) + count * drafting,
            prompts_wait=prompts_wait,
        )

    def _give_up(self, error: BaseException) -> None:
        logger.warning("the draft model fails and is not used any more: %s", describe_error(error))
        self._model = self._reader = None


def drafter_of(candidate: Candidate) -> Drafter:
    """The drafter of a row that has one."""
    assert candidate.row.drafter is not None
    return candidate.row.drafter
