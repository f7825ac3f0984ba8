"""mlx-lm's scheduler of batches, with our batches, our turns of prefill and rows that fail.

These parts of mlx-lm's `BatchGenerator` are extended, for mlx-lm 0.32.2:

- prefill: the size of a slice is bounded by time and memory, and prompts take turns.
- decode groups: mlx-lm decodes all rows in one batch, padded to the longest.
- rules: which rows may share prefill or decode.
- stream: all work of a model is on one. mlx-lm has one of its own for generation.
- freed memory: mlx-lm empties MLX's cache with the next step in flight.
- errors: those of a model's code end the rows of that call, not the process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import BatchGenerator

from protocol.batching import BatchRules
from worker.engine.batches.decode_groups import DecodeGroups, PaddingCost
from worker.engine.batches.model_errors import FailedCall, FailedCalls
from worker.engine.batches.prefill_planner import PrefillPlanner, WaitingPrompt
from worker.engine.batches.prefill_turns import PrefillBatch, PromptRow
from worker.engine.batches.speculation.speculation import Speculation
from worker.engine.prefill_budget import (
    WHOLE_DEVICE,
    DeviceShare,
    PrefillBudget,
    Prompt,
    Slice,
)
from worker.engine.rows.generation_batch import RowGenerationBatch
from worker.engine.rows.prompt_batch import (
    WHOLE_TOKENS,
    LonePromptBatch,
    PromptProgress,
    RowPromptBatch,
    share_arrays,
)
from worker.engine.rows.wired_limit import wired_limit_unchanged
from worker.engine.sampler import Row
from worker.memory.budget import clear_buffer_cache

# As in mlx-lm: how often the memory that MLX keeps for reuse is freed.
CLEAR_CACHE_STEPS = 512


@dataclass(frozen=True, slots=True)
class StepInFlight:
    """A step that has begun at `started_at`, with the batch of its slice and what this computes."""

    started_at: float
    decoding_rows: int
    computed_tokens: int
    context: int
    prefill: PrefillBatch[RowPromptBatch] | None


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
        self,
        model: nn.Module,
        padding: PaddingCost,
        budget: PrefillBudget,
        *,
        speculation: Speculation | None = None,
        **settings: Any,
    ) -> None:
        # mlx-lm's own stream would be a second queue beside that of the prompt cache's work, whose
        # buffers both would read.
        stream = mx.default_stream(mx.default_device())
        with wired_limit_unchanged(BatchGenerator):
            super().__init__(model, stream=stream, **settings)
        self._prefill_budget = budget
        self._planner = PrefillPlanner(budget)
        self._failed_calls = FailedCalls()
        self._generation_batch: DecodeGroups[RowGenerationBatch] = DecodeGroups(
            padding, self._failed_calls
        )
        self._prefills: list[PrefillBatch[RowPromptBatch]] = []
        self._planned: PrefillBatch[RowPromptBatch] | None = None
        self._slice = Slice()
        self._speculation = speculation
        self._step_in_flight: StepInFlight | None = None
        # The bytes that the memory budget spares for free slots now.
        self.spare_bytes: Callable[[], int] = lambda: 0

    # ------------------------------------------------------------ plan

    def plan_step(self, share: DeviceShare = WHOLE_DEVICE) -> float:
        """Plan the slice of the next step; the seconds that the step is expected to take.

        They are 0 where nothing is measured yet.
        """
        self._prefill_budget.others_decode_s = share.others_decode_s
        decoding_rows = len(self._generation_batch)
        prompts_wait = bool(self._prefills or self._unprocessed_sequences)
        if self._speculation is not None:
            self._speculation.prompts_wait = prompts_wait
        if prompts_wait:
            for uids in self._planner.group_computed(self._waiting()):
                self._make_prefill(uids)
            if share.prefills:
                self._planned = self._choose_prefill(decoding_rows)
        if self._planned is not None:
            self._slice = self._plan_slice(decoding_rows, self._planned)
        return self._slice.seconds + (self._prefill_budget.decode_s if decoding_rows else 0.0)

    def _waiting(self) -> list[WaitingPrompt]:
        return [
            WaitingPrompt(s[0], prompt_of(s), self._is_apart(row_of(s)), row_of(s).priority)
            for s in self._unprocessed_sequences
        ]

    def _is_apart(self, row: Row) -> bool:
        """Whether a row shares no prefill: padding would make slices of single tokens longer."""
        return row.alone or self.rules.count_replayed(row.position) > 0

    def _choose_prefill(self, decoding_rows: int) -> PrefillBatch[RowPromptBatch] | None:
        """The batch for the next slice, which is a new one if waiting prompts come first."""
        prefills = [prefill for prefill in self._prefills if prefill.left]
        choice = self._planner.choose(
            [prefill.turn for prefill in prefills], self._waiting(), decoding_rows
        )
        if choice is None:
            return None
        return prefills[choice] if isinstance(choice, int) else self._make_prefill(choice)

    def _plan_slice(self, decoding_rows: int, prefill: PrefillBatch[RowPromptBatch]) -> Slice:
        """The slice of this batch; rows that do not fit leave it for a batch of their own."""
        unfinished = [index for index, row in enumerate(prefill.rows) if row.prompt.left]
        prompts = [prefill.rows[index].prompt for index in unfinished]
        plan = self._planner.plan(decoding_rows, prompts)
        if plan.rows < len(unfinished):
            with self._attempt(prefill):
                self._prefills.append(prefill.split(unfinished[plan.rows :]))
        return plan

    def _make_prefill(self, uids: list[int]) -> PrefillBatch[RowPromptBatch] | None:
        """Make a batch of these waiting sequences; None where that fails."""
        waiting = self._unprocessed_sequences
        sequences = sorted(
            (sequence for sequence in waiting if sequence[0] in uids),
            key=lambda sequence: uids.index(sequence[0]),
        )
        self._unprocessed_sequences = deque(s for s in waiting if s[0] not in uids)
        prefill = None
        with self._failed_calls.attempt(with_siblings(uids, map(row_of, sequences))):
            rows = list(map(to_prompt_row, sequences))
            prefill = PrefillBatch(rows, self._make_prompt_batch(sequences))
            self._prefills.append(prefill)
        return prefill

    def _make_prompt_batch(self, sequences: list[Any]) -> RowPromptBatch:
        step_tokens = self.prefill_step_size if self.rules.slices_prompts else WHOLE_TOKENS
        if row_of(sequences[0]).alone:
            lone = LonePromptBatch.empty(self.model, self.sampler, step_tokens)
            return LonePromptBatch.create(lone, sequences[0])
        batch: RowPromptBatch = RowPromptBatch.empty(self.model, self.sampler, step_tokens)
        batch.speculation = self._speculation
        # mlx-lm makes a batch of the first sequences that wait.
        others, self._unprocessed_sequences = self._unprocessed_sequences, deque(sequences)
        try:
            batch.extend(self._make_batch(len(sequences)))
        finally:
            self._unprocessed_sequences, self._currently_processing = others, []
        if len(sequences) == 1:
            share_arrays(batch.prompt_cache, sequences[0][3])
        return batch

    @contextmanager
    def _attempt(self, prefill: PrefillBatch[RowPromptBatch]) -> Iterator[None]:
        """Drop this batch where the block, which computes it, fails."""
        uids = with_siblings([row.uid for row in prefill.rows], prefill.batch.samplers)
        with self._failed_calls.attempt(uids) as attempt:
            yield
        if attempt.failed:
            self._prefills = [other for other in self._prefills if other is not prefill]

    # ------------------------------------------------------------ step

    def next(self) -> tuple[list[Any], list[Any]]:
        """Decode one token of each row, and begin the slice that `plan_step` has planned.

        `wait` waits for the slice, and measures the step.
        """
        decoding_rows = len(self._generation_batch)
        context = self._planned.context if self._planned is not None else 0
        started_at = time.perf_counter()
        prompts, responses, computed_tokens = super().next()
        prefill = self._planned if computed_tokens else None
        self._planned, self._slice = None, Slice()
        self._step_in_flight = StepInFlight(
            started_at, decoding_rows, computed_tokens, context, prefill
        )
        return prompts, responses

    @property
    def has_slice(self) -> bool:
        """Whether the device may still compute a slice."""
        return self._step_in_flight is not None and self._step_in_flight.prefill is not None

    def wait(self) -> None:
        """Wait for the slice of the step that `next` has begun."""
        step, self._step_in_flight = self._step_in_flight, None
        if step is None:
            return
        if step.prefill is not None and step.prefill in self._prefills:
            with self._attempt(step.prefill):
                step.prefill.batch.wait()
        elapsed_s = time.perf_counter() - step.started_at
        self._prefill_budget.record_step(
            elapsed_s, step.decoding_rows, step.computed_tokens, step.context
        )

    def _next(self) -> tuple[list[Any], list[Any], int]:
        """Prompts' progress, rows' tokens, and the prompt tokens computed, padding included."""
        started = self._start_computed()
        responses = self._decode()
        progress, computed_tokens = self._prefill()
        return [*started, *progress], responses, computed_tokens

    def _decode(self) -> list[Any]:
        if not len(self._generation_batch):
            return []
        self._counters.generation_steps += 1
        if self._counters.generation_steps % CLEAR_CACHE_STEPS == 0:
            clear_buffer_cache()
        return self._generation_batch.next()

    def _start_computed(self) -> list[Any]:
        """Start to decode the rows whose prompts are computed."""
        started = []
        for prefill in list(self._prefills):
            computed = [index for index, row in enumerate(prefill.rows) if not row.prompt.left]
            if not computed:
                continue
            with self._attempt(prefill):
                if len(computed) == len(prefill.rows):
                    self._prefills.remove(prefill)
                else:
                    prefill = prefill.split(computed)
                batches = prefill.batch.start([row.segments[0] for row in prefill.rows])
                for batch in batches:
                    batch.grow_within(self.spare_bytes)
                    self._generation_batch.extend(batch)
                started += [PromptProgress(r.uid, r.progress, True, True) for r in prefill.rows]
        return started

    def _prefill(self) -> tuple[list[Any], int]:
        """Begin the planned slice."""
        planned = self._planned
        if planned is None or planned not in self._prefills or not self._slice.tokens:
            return [], 0
        rows, left = planned.rows, planned.left
        taken = [row.take(self._slice.tokens) for row in rows]
        progress: list[Any] = []
        with self._attempt(planned):
            # The last token of a prompt is computed by the first decode step.
            planned.batch.reserve(left + 1)
            planned.batch.prompt([tokens for tokens, _ in taken])
            progress = [
                PromptProgress(row.uid, row.progress, ended, False)
                for row, (_, ended) in zip(rows, taken, strict=True)
            ]
        return progress, len(progress) * max(len(tokens) for tokens, _ in taken)

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
        for prefill in list(self._prefills):
            with self._attempt(prefill):
                if not prefill.keep_except(uids):
                    self._prefills.remove(prefill)
        return caches

    def take_failed(self) -> list[FailedCall]:
        """The calls of the model that failed since this was called last; their rows are gone."""
        return self._failed_calls.take()

    @property
    def rules(self) -> BatchRules:
        """What the rows may share."""
        return self._planner.rules

    @rules.setter
    def rules(self, rules: BatchRules) -> None:
        self._planner.rules = rules

    @property
    def slack_bytes(self) -> int:
        """The bytes of free slots that are kept because the memory budget spared them."""
        return sum(batch.slack_bytes for batch in self._generation_batch.batches)

    def squeeze(self) -> None:
        """Give up the slack."""
        for batch in self._generation_batch.batches:
            batch.squeeze()

    @property
    def is_decoding(self) -> bool:
        """Whether any row decodes."""
        return len(self._generation_batch) > 0

    def new_uid(self) -> int:
        """A number for a row that is not inserted."""
        uid: int = self._uid_count
        self._uid_count += 1
        return uid


def row_of(sequence: Any) -> Row:
    """The row of one of mlx-lm's waiting sequences."""
    row: Row = sequence[5]
    return row


def to_prompt_row(sequence: Any) -> PromptRow:
    """The row in prefill of one of mlx-lm's waiting sequences."""
    uid, segments, cached = sequence[0], list(sequence[1]), len(sequence[4])
    total = sum(map(len, segments))
    return PromptRow(uid, segments, cached, 0, total, row_of(sequence).priority)


def with_siblings(uids: Sequence[int], rows: Iterable[Row]) -> list[int]:
    """The uids of these rows and of the siblings that share their prefill."""
    return [*uids, *(sibling.uid for row in rows for sibling in row.siblings)]


def prompt_of(sequence: Any) -> Prompt:
    """The prompt of one of mlx-lm's waiting sequences; its last token is not prefilled."""
    return Prompt(len(sequence[4]), sum(map(len, sequence[1])) - 1)
