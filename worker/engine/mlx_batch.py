"""mlx-lm's batches with rows of ours: the only file that touches `mlx_lm.generate`.

mlx-lm's `BatchGenerator` schedules prefill and decode. Parts of it are extended,
for mlx-lm 0.32.2 and held to mlx-lm's own output by tests/worker/test_engine.py:

- sampling: a row carries all that its next draw depends on, and all rows are
  drawn in one call; mlx-lm's samplers know no rows.
- log-probabilities: mlx-lm normalises and keeps a full-vocabulary array a row
  a step. Here the rows that ask are scored, and prompts during their prefill.
- siblings: rows that come with a prompt that is still in prefill take part in it.
- pace: slices of prefill are as long as those who decode can wait.
- groups: mlx-lm decodes all rows in one batch, each padded to the longest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import (
    BatchGenerator,
    GenerationBatch,
    PromptProcessingBatch,
    StopSequences,
)

from worker.cache.radix_node import arrays_of
from worker.engine.decode_groups import DecodeGroups, PaddingCost
from worker.engine.prefill_budget import PrefillBudget
from worker.engine.sampler import Row, draw_tokens
from worker.engine.token_logprobs import PendingScore, score_rows

WIRED_LIMIT_SETTER = "maybe_set_recommended_wired_limit"
STOPS_KEPT = 64
SCORED_STEP_TOKENS = 64

PromptProgress = PromptProcessingBatch.Response
Drawn = GenerationBatch.Response


class RowGenerationBatch(GenerationBatch):
    """Decoding whose per-sequence `samplers` are `Row`s."""

    tokens: list[list[int]]
    samplers: list[Row]
    _current_tokens: mx.array | None
    _next_tokens: mx.array
    _current_logprobs: list[PendingScore | None]
    _next_logprobs: list[PendingScore | None]

    def _step(self) -> tuple[list[int], list[PendingScore | None]]:
        first = self._current_tokens is None
        self._current_tokens = inputs = self._next_tokens
        self._current_logprobs = self._next_logprobs
        logits = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        if not first and any(row.follows_history for row in self.samplers):
            # The device goes forward while the host reads what it has just drawn; what
            # depends on that is put behind it, and neither waits for the other.
            mx.async_eval(logits)
            self._tell_rows(read_tokens(inputs))
        self._next_tokens = draw_tokens(logits, self.samplers)
        self._next_logprobs, scores = score_rows(
            logits, self._next_tokens, [row.logprobs for row in self.samplers]
        )
        mx.async_eval(self._next_tokens, scores)
        # The device computes the next tokens while these are read and turned into text.
        tokens = read_tokens(inputs)
        for history, token in zip(self.tokens, tokens, strict=True):
            history.append(token)
        return tokens, self._current_logprobs

    def _tell_rows(self, tokens: list[int]) -> None:
        for row, token in zip(self.samplers, tokens, strict=True):
            if row.follows_history:
                row.accept(token)


class RowPromptBatch(PromptProcessingBatch):
    """Prefill that hands its rows to a `RowGenerationBatch`."""

    model: nn.Module
    prefill_step_size: int
    uids: list[int]
    prompt_cache: list[Any]
    tokens: list[list[int]]
    samplers: list[Row]
    logits_processors: list[Any]
    max_tokens: list[int]
    stop_sequences: list[StopSequences]

    def _copy(self) -> RowPromptBatch:
        """The same rows again, of which `split` keeps some here and others there.

        mlx-lm copies all keys and values for it; the arrays can be shared, because
        both sides then take their rows into arrays of their own.
        """
        shared = {id(array): array for array in arrays_of(self.prompt_cache)}
        copied: RowPromptBatch = copy(self)
        copied.prompt_cache = deepcopy(self.prompt_cache, shared)
        return copied

    def prompt(self, tokens: list[list[int]]) -> None:
        if all(row.scorer is None for row in self.samplers):
            super().prompt(tokens)
            return
        model, step_tokens = self.model, self.prefill_step_size
        self.model = ScoringModel(model, self.samplers, [len(row) for row in tokens])
        # Scored places have a distribution each, of the size of the vocabulary.
        self.prefill_step_size = min(step_tokens, SCORED_STEP_TOKENS)
        try:
            super().prompt(tokens)
        finally:
            self.model, self.prefill_step_size = model, step_tokens

    def generate(self, tokens: list[list[int]]) -> RowGenerationBatch:
        if any(len(row) > 1 for row in tokens):
            self.prompt([row[:-1] for row in tokens])
        tokens = self._add_siblings(tokens)
        batch = RowGenerationBatch(
            self.model,
            self.uids,
            mx.array([row[-1] for row in tokens]),
            self.prompt_cache,
            self.tokens,
            self.samplers,
            self.fallback_sampler,
            self.logits_processors,
            self.stop_sequences,
            self.max_tokens,
        )
        self.uids, self.prompt_cache, self.tokens = [], [], []
        self.samplers, self.logits_processors, self.max_tokens = [], [], []
        return batch

    def _add_siblings(self, tokens: list[list[int]]) -> list[list[int]]:
        """Copy each row's cache for its siblings, and put them behind all rows."""
        siblings = [
            (place, sibling) for place, row in enumerate(self.samplers) for sibling in row.siblings
        ]
        if not siblings:
            return tokens
        places = [*range(len(self.uids)), *(place for place, _ in siblings)]
        for row in self.samplers:
            row.siblings = []
        self.filter(places)
        self.tokens = [list(row) for row in self.tokens]
        for place, (_, sibling) in enumerate(siblings, len(tokens)):
            self.uids[place] = sibling.uid
            self.samplers[place] = sibling.row
            self.max_tokens[place] = sibling.max_tokens
            self.stop_sequences[place] = make_stop_sequences(sibling.row.stop_token_ids)
        return [tokens[place] for place in places]


class ScoringModel:
    """A model that shows the logits of a batch's prompts to the scorers of their rows."""

    def __init__(self, model: nn.Module, rows: list[Row], lengths: list[int]) -> None:
        self._model = model
        self._rows = rows
        self._left = lengths

    def __call__(self, inputs: mx.array, cache: list[Any]) -> mx.array:
        logits: mx.array = self._model(inputs, cache=cache)
        for place, row in enumerate(self._rows):
            width = min(self._left[place], inputs.shape[1])
            self._left[place] -= width
            if row.scorer is not None and width:
                row.scorer.push(logits[place, :width])
        return logits


@contextmanager
def wired_limit_unchanged() -> Iterator[None]:
    """Within the block, a `BatchGenerator` is made without a change of the wired limit.

    The constructor of mlx-lm 0.32.2 sets the limit to all memory that the device
    recommends, without a switch, and `close` restores the limit that the constructor
    has replaced. A non-empty residency set can panic macOS (mlx issue 3186). So the
    function that the constructor calls is replaced by one that sets nothing, and
    `close` then has nothing to restore. This can go when mlx-lm has a switch.
    """
    module = sys.modules[BatchGenerator.__module__]
    setter = getattr(module, WIRED_LIMIT_SETTER)
    setattr(module, WIRED_LIMIT_SETTER, lambda: None)
    try:
        yield
    finally:
        setattr(module, WIRED_LIMIT_SETTER, setter)


class RowBatchGenerator(BatchGenerator):
    """mlx-lm's scheduler over the two batches above."""

    prefill_batch_size: int
    prefill_step_size: int
    # Set here, so that `close` has nothing to restore even where the constructor fails.
    _old_wired_limit: int | None = None

    def __init__(self, model: nn.Module, padding: PaddingCost, **settings: Any) -> None:
        with wired_limit_unchanged():
            super().__init__(model, **settings)
        self._prefill_budget = PrefillBudget(settings["prefill_step_size"])
        self._prompt_batch = RowPromptBatch.empty(model, self.sampler, self.prefill_step_size)
        self._generation_batch: DecodeGroups[RowGenerationBatch] = DecodeGroups(padding)

    def next(self) -> tuple[list[Any], list[Any]]:
        decoding, computed = len(self._generation_batch), self._counters.prompt_tokens
        self.prefill_step_size = self._prefill_budget.slice_tokens(decoding, self._count_prompts())
        began = time.perf_counter()
        responses: tuple[list[Any], list[Any]] = super().next()
        elapsed_s = time.perf_counter() - began
        self._prefill_budget.note(elapsed_s, decoding, self._counters.prompt_tokens - computed)
        return responses

    def _count_prompts(self) -> int:
        """How many prompts the next step takes a slice of."""
        room = self.prefill_batch_size - len(self._prompt_batch)
        joining = min(room, len(self._unprocessed_sequences))
        # One whose last token alone is left goes on to decoding.
        left = (sum(map(len, segments)) > 1 for segments, *_ in self._currently_processing)
        return joining + sum(left)

    def new_uid(self) -> int:
        """A number for a row that is not inserted."""
        uid: int = self._uid_count
        self._uid_count += 1
        return uid


@lru_cache(STOPS_KEPT)
def make_stop_sequences(stop_token_ids: frozenset[int]) -> StopSequences:
    """mlx-lm's automaton for tokens that each end a row by themselves."""
    return StopSequences([[token] for token in sorted(stop_token_ids)])


def read_tokens(tokens: mx.array) -> list[int]:
    """Token ids on the host; waits for the device to have drawn them."""
    read: list[int] = tokens.tolist()  # type: ignore[assignment]
    return read
