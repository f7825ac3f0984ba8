"""mlx-lm's batches with our rows; the only module that imports `mlx_lm.generate`.

mlx-lm's `BatchGenerator` schedules prefill and decode. These parts of it are
extended, for mlx-lm 0.32.2; tests/worker/engine/test_engine.py compares the output
with mlx-lm's own:

- sampling: a row holds everything that its next draw depends on, and all rows are
  drawn in one call. mlx-lm's samplers do not know the rows.
- log-probabilities: mlx-lm normalises and keeps an array of the size of the
  vocabulary for each row and step. Here only the rows that request scores are
  scored, and their prompts during prefill.
- siblings: a row whose prompt is already in prefill shares that prefill.
- prefill: the size of a slice is bounded by time and memory, and prompts take turns.
- decode groups: mlx-lm decodes all rows in one batch, padded to the longest.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Collection, Iterator
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
from worker.engine.prefill_budget import PrefillBudget, Prompt, Slice
from worker.engine.prefill_turns import PrefillBatch, PrefillTurns, PromptRow
from worker.engine.sampler import Row, draw_tokens
from worker.engine.token_logprobs import PendingScore, score_rows

WIRED_LIMIT_SETTER = "maybe_set_recommended_wired_limit"
MAX_CACHED_STOP_SEQUENCES = 64
MAX_SCORED_CHUNK_TOKENS = 64
# As in mlx-lm: how often the memory that MLX keeps for reuse is freed.
CLEAR_CACHE_STEPS = 512

PromptProgress = PromptProcessingBatch.Response
GeneratedToken = GenerationBatch.Response


class RowGenerationBatch(GenerationBatch):
    """A decode batch whose per-sequence `samplers` are `Row`s."""

    tokens: list[list[int]]
    samplers: list[Row]
    _current_tokens: mx.array | None
    _next_tokens: mx.array
    _current_logprobs: list[PendingScore | None]
    _next_logprobs: list[PendingScore | None]

    def _step(self) -> tuple[list[int], list[PendingScore | None]]:
        is_first = self._current_tokens is None
        self._current_tokens = inputs = self._next_tokens
        self._current_logprobs = self._next_logprobs
        logits = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        if not is_first and any(row.depends_on_history for row in self.samplers):
            # The device runs the forward pass while the host reads the tokens of the last
            # step. The operations that depend on these tokens are queued behind the pass.
            mx.async_eval(logits)
            self._update_rows(read_tokens(inputs))
        self._next_tokens = draw_tokens(logits, self.samplers)
        self._next_logprobs, scores = score_rows(
            logits, self._next_tokens, [row.logprobs for row in self.samplers]
        )
        mx.async_eval(self._next_tokens, scores)
        # The device computes the next tokens while the host reads and detokenizes these.
        tokens = read_tokens(inputs)
        for history, token in zip(self.tokens, tokens, strict=True):
            history.append(token)
        return tokens, self._current_logprobs

    def _update_rows(self, tokens: list[int]) -> None:
        for row, token in zip(self.samplers, tokens, strict=True):
            if row.depends_on_history:
                row.accept(token)


class RowPromptBatch(PromptProcessingBatch):
    """A prefill batch that passes its rows to a `RowGenerationBatch`."""

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
        """A second batch of the same rows, for `split`, which distributes them over both.

        mlx-lm copies all keys and values. Sharing the arrays is enough, because both
        batches then copy their rows into new arrays.
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
        # Each scored position needs an array of the size of the vocabulary.
        self.prefill_step_size = min(step_tokens, MAX_SCORED_CHUNK_TOKENS)
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
        """Copy each row's cache for its siblings, and append the siblings to the rows."""
        siblings = [
            (index, sibling) for index, row in enumerate(self.samplers) for sibling in row.siblings
        ]
        if not siblings:
            return tokens
        indices = [*range(len(self.uids)), *(index for index, _ in siblings)]
        for row in self.samplers:
            row.siblings = []
        self.filter(indices)
        self.tokens = [list(row) for row in self.tokens]
        for index, (_, sibling) in enumerate(siblings, len(tokens)):
            self.uids[index] = sibling.uid
            self.samplers[index] = sibling.row
            self.max_tokens[index] = sibling.max_tokens
            self.stop_sequences[index] = make_stop_sequences(sibling.row.stop_token_ids)
        return [tokens[index] for index in indices]


class ScoringModel:
    """A model that passes the logits of a batch's prompts to the scorers of their rows."""

    def __init__(self, model: nn.Module, rows: list[Row], lengths: list[int]) -> None:
        self._model = model
        self._rows = rows
        self._remaining = lengths

    def __call__(self, inputs: mx.array, cache: list[Any]) -> mx.array:
        logits: mx.array = self._model(inputs, cache=cache)
        for index, row in enumerate(self._rows):
            width = min(self._remaining[index], inputs.shape[1])
            self._remaining[index] -= width
            if row.scorer is not None and width:
                row.scorer.push(logits[index, :width])
        return logits


@contextmanager
def wired_limit_unchanged() -> Iterator[None]:
    """Keep the constructor of `BatchGenerator` from setting the wired limit.

    In mlx-lm 0.32.2 the constructor sets the limit to all memory that the device
    recommends, without a switch, and `close` restores the earlier limit. A non-empty
    residency set can panic macOS (mlx issue 3186). So the function that the
    constructor calls is replaced, within the block, by one that sets nothing; `close`
    then has nothing to restore. Remove this when mlx-lm has a switch.
    """
    module = sys.modules[BatchGenerator.__module__]
    setter = getattr(module, WIRED_LIMIT_SETTER)
    setattr(module, WIRED_LIMIT_SETTER, lambda: None)
    try:
        yield
    finally:
        setattr(module, WIRED_LIMIT_SETTER, setter)


class RowBatchGenerator(BatchGenerator):
    """mlx-lm's scheduler with the two batches above, and with prefill in turns.

    mlx-lm prefills all prompts in one batch, and copies it when rows join or leave. Here
    only prompts that share a slice form a batch, several batches take turns, and a batch
    whose rows are all computed starts to decode without a copy.
    """

    prefill_step_size: int
    _unprocessed_sequences: deque[Any]
    _currently_processing: list[Any]
    # A default for `close`, which also runs where the constructor fails.
    _old_wired_limit: int | None = None

    def __init__(
        self, model: nn.Module, padding: PaddingCost, budget: PrefillBudget, **settings: Any
    ) -> None:
        with wired_limit_unchanged():
            super().__init__(model, **settings)
        self._prefill_budget = budget
        self._generation_batch: DecodeGroups[RowGenerationBatch] = DecodeGroups(padding)
        self._prefills: list[PrefillBatch[RowPromptBatch]] = []
        self._turns = PrefillTurns()
        self._planned: PrefillBatch[RowPromptBatch] | None = None
        self._slice = Slice()

    # ------------------------------------------------------------ plan

    def plan_step(self) -> float:
        """Plan the slice of the next step; the seconds that the step is expected to take.

        They are 0 where nothing is measured yet.
        """
        decoding_rows = len(self._generation_batch)
        if self._prefills or self._unprocessed_sequences:
            self._join_computed()
            self._planned = self._choose_prefill(decoding_rows)
        if self._planned is not None:
            self._slice = self._plan_slice(decoding_rows, self._planned)
        return self._slice.seconds + (self._prefill_budget.decode_s if decoding_rows else 0.0)

    def _join_computed(self) -> None:
        """Make a batch of the waiting prompts of which all but the last token is cached."""
        waiting = self._unprocessed_sequences
        if computed := [sequence for sequence in waiting if not prompt_of(sequence).left]:
            self._make_prefill(computed)

    def _choose_prefill(self, decoding_rows: int) -> PrefillBatch[RowPromptBatch] | None:
        """The batch for the next slice, which is a new one if waiting prompts come first."""
        prefills = [prefill for prefill in self._prefills if prefill.left]
        waiting = list(self._unprocessed_sequences)
        order = self._turns.order(
            [(prefill.rows[0].uid, prefill.left) for prefill in prefills]
            + [(sequence[0], prompt_of(sequence).left) for sequence in waiting]
        )
        if not order:
            return None
        if order[0] < len(prefills):
            return prefills[order[0]]
        joining = [waiting[index - len(prefills)] for index in order if index >= len(prefills)]
        plan = self._prefill_budget.plan(decoding_rows, [prompt_of(s) for s in joining])
        return self._make_prefill(joining[: plan.rows])

    def _plan_slice(self, decoding_rows: int, prefill: PrefillBatch[RowPromptBatch]) -> Slice:
        """The slice of this batch; rows that do not fit leave it for a batch of their own."""
        unfinished = [index for index, row in enumerate(prefill.rows) if row.prompt.left]
        prompts = [prefill.rows[index].prompt for index in unfinished]
        plan = self._prefill_budget.plan(decoding_rows, prompts)
        if plan.rows < len(unfinished):
            self._prefills.append(prefill.split(unfinished[plan.rows :]))
        return plan

    def _make_prefill(self, sequences: list[Any]) -> PrefillBatch[RowPromptBatch]:
        """Make a batch of these waiting sequences."""
        uids = [sequence[0] for sequence in sequences]
        others = [s for s in self._unprocessed_sequences if s[0] not in set(uids)]
        self._unprocessed_sequences = deque([*sequences, *others])
        batch = RowPromptBatch.empty(self.model, self.sampler, self.prefill_step_size)
        batch.extend(self._make_batch(len(sequences)))
        self._currently_processing = []
        rows = [PromptRow(s[0], list(s[1]), len(s[4]), 0, sum(map(len, s[1]))) for s in sequences]
        prefill = PrefillBatch(rows, batch)
        self._prefills.append(prefill)
        return prefill

    # ------------------------------------------------------------ step

    def next(self) -> tuple[list[Any], list[Any]]:
        """Decode one token of each row, and prefill the slice that `plan_step` has planned."""
        decoding_rows = len(self._generation_batch)
        context = self._planned.context if self._planned is not None else 0
        started_at = time.perf_counter()
        prompts, responses, computed_tokens = super().next()
        elapsed_s = time.perf_counter() - started_at
        self._planned, self._slice = None, Slice()
        self._prefill_budget.record_step(elapsed_s, decoding_rows, computed_tokens, context)
        return prompts, responses

    def _next(self) -> tuple[list[Any], list[Any], int]:
        """Prompts' progress, rows' tokens, and the prompt tokens computed, padding included."""
        responses = self._decode()
        started = self._start_computed()
        progress, computed_tokens = self._prefill()
        return [*started, *progress], responses, computed_tokens

    def _decode(self) -> list[Any]:
        if not len(self._generation_batch):
            return []
        self._counters.generation_steps += 1
        if self._counters.generation_steps % CLEAR_CACHE_STEPS == 0:
            mx.clear_cache()
        return self._generation_batch.next()

    def _start_computed(self) -> list[Any]:
        """Start to decode the rows whose prompts are computed."""
        started = []
        for prefill in list(self._prefills):
            computed = [index for index, row in enumerate(prefill.rows) if not row.prompt.left]
            if not computed:
                continue
            if len(computed) == len(prefill.rows):
                self._prefills.remove(prefill)
            else:
                prefill = prefill.split(computed)
            batch = prefill.batch.generate([row.segments[0] for row in prefill.rows])
            started += [PromptProgress(row.uid, row.progress, True, True) for row in prefill.rows]
            self._generation_batch.extend(batch)
        return started

    def _prefill(self) -> tuple[list[Any], int]:
        """Compute the planned slice."""
        if self._planned is None or not self._slice.tokens:
            return [], 0
        rows = self._planned.rows
        taken = [row.take(self._slice.tokens) for row in rows]
        self._planned.batch.prompt([tokens for tokens, _ in taken])
        progress = [
            PromptProgress(row.uid, row.progress, ended, False)
            for row, (_, ended) in zip(rows, taken, strict=True)
        ]
        return progress, len(rows) * max(len(tokens) for tokens, _ in taken)

    # ------------------------------------------------------------ rows

    def extract_cache(self, uids: Collection[int]) -> dict[int, tuple[list[Any], list[int]]]:
        """The caches and the tokens that they hold, by uid."""
        caches: dict[int, tuple[list[Any], list[int]]] = super().extract_cache(uids)
        for prefill in self._prefills:
            for index, row in enumerate(prefill.rows):
                if row.uid in uids:
                    batch = prefill.batch
                    caches[row.uid] = (batch.extract_cache(index), batch.tokens[index])
        return caches

    def remove(
        self, uids: Collection[int], return_prompt_caches: bool = False
    ) -> dict[int, tuple[list[Any], list[int]]]:
        """Remove rows in any stage; with `return_prompt_caches` as from `extract_cache`."""
        caches = self.extract_cache(uids) if return_prompt_caches else {}
        super().remove(uids)
        self._prefills = [prefill for prefill in self._prefills if prefill.keep_except(uids)]
        return caches

    def new_uid(self) -> int:
        """A number for a row that is not inserted."""
        uid: int = self._uid_count
        self._uid_count += 1
        return uid


def prompt_of(sequence: Any) -> Prompt:
    """The prompt of one of mlx-lm's waiting sequences; its last token is not prefilled."""
    return Prompt(len(sequence[4]), sum(map(len, sequence[1])) - 1)


@lru_cache(MAX_CACHED_STOP_SEQUENCES)
def make_stop_sequences(stop_token_ids: frozenset[int]) -> StopSequences:
    """mlx-lm's automaton for single stop tokens."""
    return StopSequences([[token] for token in sorted(stop_token_ids)])


def read_tokens(tokens: mx.array) -> list[int]:
    """Token ids on the host; waits until the device has drawn them."""
    ids: list[int] = tokens.tolist()  # type: ignore[assignment]
    return ids
