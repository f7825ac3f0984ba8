"""mlx-lm's batch of rows that decode, with our rows.

These parts of mlx-lm's batch are extended, for mlx-lm 0.32.2; tests/worker/engine/test_engine.py
compares the output with mlx-lm's own:

- sampling: a row holds everything that its next draw depends on, and all rows are
  drawn in one call. mlx-lm's samplers do not know the rows.
- log-probabilities: mlx-lm normalises and keeps an array of the size of the
  vocabulary for each row and step. Here only the rows that request scores are
  scored, and their prompts during prefill.
- first tokens: mlx-lm computes those of new rows in a pass of their own. Here rows join a batch
  with the last tokens of their prompts, and its next pass is theirs, too.
- rows alone: mlx-lm has no batches for some caches, and wrong ones for some models.
- slots: rows of plain attention are not copied when others join or leave (slot_cache.py).
- drafts: a pass verifies several tokens of a row (batches/speculation/).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import (
    GenerationBatch,
    StopSequences,
)

from protocol.events import FinishReason
from worker.drafts.drafter import Draft
from worker.engine.batches.row_slots import RowSlots
from worker.engine.batches.slot_cache import (
    are_slots,
    can_drop_tokens,
    drop_tokens,
    extend_layers,
    filter_layers,
    share_positions,
)
from worker.engine.batches.slot_room import SlotRoom
from worker.engine.batches.speculation.drafted_pass import run_drafted_pass
from worker.engine.batches.speculation.speculation import (
    Drafts,
    Speculation,
    count_tokens_left,
    learn,
)
from worker.engine.batches.speculation.verification import Verification
from worker.engine.sampler import Row, Sample, draw_tokens
from worker.engine.token_logprobs import PendingScore, score_rows
from worker.quantised_kv.model_quantisation import to_plain

MAX_CACHED_STOP_SEQUENCES = 64

GeneratedToken = GenerationBatch.Response


class RowGenerationBatch(GenerationBatch):
    """A decode batch whose per-sequence `samplers` are `Row`s.

    mlx-lm's `fallback_sampler` is what draws the rows that are sampled at random.
    """

    is_alone = False
    _has_pass_in_flight = False
    prompt_cache: list[Any]
    tokens: list[list[int]]
    samplers: list[Row]
    fallback_sampler: Sample
    _next_tokens: mx.array
    _next_logprobs: list[PendingScore | None]

    def __init__(
        self, model: nn.Module, uids: list[int], *parts: Any, speculation: Speculation | None
    ) -> None:
        self.speculation = speculation
        self._slots = RowSlots(len(uids))
        self._room = SlotRoom()
        # The rows whose next tokens are the last ones of their prompts.
        self._is_first = [True] * len(uids)
        super().__init__(model, uids, *parts)
        self._next_logprobs = [None] * len(uids)

    def next(self) -> list[Any]:
        """The next token of each row, and behind it those that were drafted right, if any are."""
        speculation, rows = self.speculation, len(self.uids)
        if not rows:
            return []
        if speculation is None:
            return self._run_pass()
        with speculation.measure(rows) as timer:
            # Until its tokens are read the last pass runs, which was put up without drafts. It was
            # that of fewer rows where some have joined.
            timer.start(1 if self._has_pass_in_flight and not any(self._is_first) else 0)
            drafts = self._draft(speculation)
            self._has_pass_in_flight = drafts is None
            if drafts is None:
                return self._run_pass()
            timer.start(drafts.places)
            return run_drafted_pass(self, drafts, speculation)

    def _run_pass(self) -> list[Any]:
        """Put up a pass without drafts; the tokens of the rows, but of new ones."""
        responses, keep = [], []
        were_first = self._is_first
        tokens, scores = self._compute_next()
        for row, token in enumerate(tokens):
            if were_first[row]:
                self.tokens[row].append(token)
                keep.append(row)
                continue
            reason = self.count_tokens(row, [token])
            response = GeneratedToken(self.uids[row], token, scores[row], reason, None, None)
            responses.append(response)
            if reason is None:
                keep.append(row)
            else:
                response.prompt_cache = self.extract_cache(row)
                response.all_tokens = self.tokens[row]
        if len(keep) < len(tokens):
            self.filter(keep)
        return responses

    def _draft(self, speculation: Speculation) -> Drafts | None:
        """What is drafted for the next pass, if anything; nothing beside new rows."""
        rows = self.samplers
        if any(self._is_first) or not can_drop_tokens(self.prompt_cache):
            return None
        left = count_tokens_left(rows, self.tokens, self._num_tokens, self.max_tokens)
        return speculation.plan(rows, left, lambda: read_tokens(self._next_tokens))

    def compute_places(self, tokens: list[list[int]]) -> mx.array:
        """The logits behind these next tokens of each row: [slots, places, vocabulary]."""
        if self._slots.is_wasteful:
            self.close_gaps()
        self._slots.count_step()
        self._room.make_place(self.prompt_cache, self._slots, len(tokens[0]))
        logits = self._compute(self._slots.spread(mx.array(tokens)))
        if dependent := self._list_dependent():
            mx.async_eval(logits)
            for index, row in dependent:
                row.accept(tokens[index][0])
        return logits

    def draw_places(self, logits: mx.array, drafts: list[Draft]) -> Verification:
        """Draw at the places of the rows' drafts."""
        return Verification(logits, self._slots.slots, self.samplers, drafts, self.fallback_sampler)

    def keep_places(self, kept: Sequence[int], places: int) -> None:
        """Take back all but the first places of each row, of those computed last."""
        dropped = [places - each for each in kept]
        of_slot = dict(zip(self._slots.slots, dropped, strict=True))
        common = min(dropped)
        slots = range(self._slots.width)
        if drop_tokens(self.prompt_cache, [of_slot.get(slot, common) for slot in slots]):
            self._room.note(self.prompt_cache)
        if self.speculation is not None:
            self.speculation.follow(self.samplers, self._slots.slots, kept)

    def count_tokens(self, row: int, tokens: list[int]) -> FinishReason | None:
        """Add tokens to a row; why it ends with them. Only the last one can end it."""
        self.tokens[row] += tokens
        self._num_tokens[row] += len(tokens)
        matcher = self._matchers[row]
        for token in tokens:
            if matcher.advance(token):
                return "stop"
        return "length" if self._num_tokens[row] >= self.max_tokens[row] else None

    def continue_with(
        self, tokens: list[int], scores: list[PendingScore | None]
    ) -> list[PendingScore | None]:
        """These are the rows' next tokens, with their scores; the scores of those before."""
        before, self._next_logprobs = self._next_logprobs, scores
        self._next_tokens = mx.array(tokens, mx.uint32)
        return before

    def _step(self) -> tuple[list[int], list[PendingScore | None]]:
        """Nothing: mlx-lm's constructor calls this, and here `next` computes the first pass."""
        return [], []

    def _compute_next(self) -> tuple[list[int], list[PendingScore | None]]:
        """Put up the pass behind the rows' next tokens; these, with their scores."""
        inputs, scores_of_inputs = self._next_tokens, self._next_logprobs
        dependent, self._is_first = self._list_dependent(), [False] * len(self.uids)
        if self._slots.is_wasteful:
            self.close_gaps()
        self._slots.count_step()
        self._room.make_place(self.prompt_cache, self._slots, 1)
        tokens_in = self._slots.spread(inputs)
        logits = self._compute(tokens_in[:, None])[:, -1, :]
        if self.speculation is not None:
            self.speculation.follow(self.samplers, self._slots.slots, [1] * len(self.uids))
        logits = self._slots.gather(logits)
        if dependent:
            # The device runs the forward pass while the host reads the tokens of the last
            # step. The operations that depend on these tokens are queued behind the pass.
            mx.async_eval(logits)
            tokens = read_tokens(inputs)
            for index, row in dependent:
                row.accept(tokens[index])
        self._next_tokens = draw_tokens(logits, self.samplers, self.fallback_sampler)
        self._next_logprobs, scores = score_rows(
            logits, self._next_tokens, [row.logprobs for row in self.samplers]
        )
        mx.async_eval(self._next_tokens, scores)
        # The device computes the next tokens while the host reads and detokenizes these.
        tokens = read_tokens(inputs)
        for row, token in zip(self.samplers, tokens, strict=True):
            # The row has drawn the token after this one.
            learn(row, row.position - 2, token)
        return tokens, scores_of_inputs

    def _compute(self, tokens: mx.array) -> mx.array:
        """The logits behind these tokens of each slot."""
        if self.speculation is not None:
            return self.speculation.compute(self.model, tokens, self.prompt_cache)
        logits: mx.array = self.model(tokens, cache=self.prompt_cache)
        return logits

    def extract_cache(self, idx: int) -> list[Any]:
        slot = self._slots.slots[idx]
        return [layer.extract(slot) for layer in self.prompt_cache]

    def filter(self, keep: list[int]) -> None:
        """Keep these rows. Those of plain attention stay where they are."""
        layers, self.prompt_cache = self.prompt_cache, []
        super().filter(keep)
        self._is_first = [self._is_first[row] for row in keep]
        if keep:
            self.prompt_cache = layers
            self._slots.keep(keep)
            self._arrange()

    def extend(self, batch: RowGenerationBatch) -> None:
        """Append the other batch's rows."""
        batch.close_gaps()
        layers, others = self.prompt_cache, batch.prompt_cache
        self.prompt_cache, batch.prompt_cache = [], []
        super().extend(batch)
        self._is_first += batch._is_first
        self.prompt_cache = layers
        slots = self._slots.add(len(batch))
        extend_layers(layers, others, slots, self._room.slots_for(self._slots))
        self._note_arrays()

    def grow_within(self, spare_bytes: Callable[[], int]) -> None:
        """Let the arrays have more room where the memory budget has these bytes to spare."""
        self._room.spare_bytes = spare_bytes

    @property
    def slack_bytes(self) -> int:
        """The bytes of the arrays beyond those that the rows need."""
        return self._room.slack_bytes(len(self.uids))

    def squeeze(self) -> None:
        """Give up the slack."""
        self._room.squeeze(self.prompt_cache, self._slots)

    def close_gaps(self) -> None:
        """Give the rows the first slots, in their order."""
        if not self._slots.is_in_order:
            self._keep_slots(self._slots.slots)
            self._slots.close()

    def _arrange(self) -> None:
        """Let gaps be, where the caches may have them and they have not cost too much."""
        if self._slots.is_wasteful or not are_slots(self.prompt_cache):
            self._keep_slots(self._slots.slots)
            self._slots.close()
        else:
            self._keep_slots(range(self._slots.width))

    def _keep_slots(self, slots: Sequence[int]) -> None:
        filter_layers(self.prompt_cache, slots, self._room.max_share)
        self._note_arrays()

    def _note_arrays(self) -> None:
        share_positions(self.prompt_cache)
        self._room.note(self.prompt_cache)

    def _list_dependent(self) -> list[tuple[int, Row]]:
        """The rows, by index, whose next draws depend on the tokens that they have drawn last."""
        rows = zip(self.samplers, self._is_first, strict=True)
        return [
            (index, row)
            for index, (row, is_first) in enumerate(rows)
            if row.depends_on_history and not is_first
        ]


class LoneGenerationBatch(RowGenerationBatch):
    """A row alone, with mlx-lm's caches of one sequence: they need no `merge`."""

    is_alone = True

    def extract_cache(self, idx: int) -> list[Any]:
        return to_plain(self.prompt_cache)

    def filter(self, keep: list[int]) -> None:
        if not keep:
            super().filter(keep)


@lru_cache(MAX_CACHED_STOP_SEQUENCES)
def make_stop_sequences(stop_token_ids: frozenset[int]) -> StopSequences:
    """mlx-lm's automaton for single stop tokens."""
    return StopSequences([[token] for token in sorted(stop_token_ids)])


def read_tokens(tokens: mx.array) -> list[int]:
    """Token ids on the host; waits until the device has drawn them."""
    ids: list[int] = tokens.tolist()  # type: ignore[assignment]
    return ids
