"""mlx-lm's batch of prompts in prefill, with our rows.

These parts of mlx-lm's batch are extended, for mlx-lm 0.32.2:

- siblings: a row whose prompt is already in prefill shares that prefill.
- prefill: mlx-lm waits for each slice and frees MLX's buffers after it, and copies all keys and
  values of a prompt at every 256 tokens.
- log-probabilities: only the prompts of the rows that request scores are scored.
- rows alone: each prompt is a batch of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from copy import copy, deepcopy
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import (
    PromptProcessingBatch,
    StopSequences,
)
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache

from worker.cache.radix_node import arrays_of
from worker.engine.batches.slot_arrays import extend_room
from worker.engine.batches.slot_cache import (
    extract_row,
    to_slots,
)
from worker.engine.batches.speculation.speculation import (
    Speculation,
)
from worker.engine.rows.generation_batch import (
    LoneGenerationBatch,
    RowGenerationBatch,
    make_stop_sequences,
)
from worker.engine.sampler import Row, Sibling
from worker.engine.token_logprobs import ScoringModel
from worker.quantised_kv.model_quantisation import to_plain
from worker.quantised_kv.packed_caches import PackedBatchKVCache, PackedKVCache

MAX_SCORED_CHUNK_TOKENS = 64
# The size of a slice that has all of a prompt.
WHOLE_TOKENS = sys.maxsize
GROWING_CACHES = (KVCache, PackedKVCache, BatchKVCache, PackedBatchKVCache)

PromptProgress = PromptProcessingBatch.Response


class RowPromptBatch(PromptProcessingBatch):
    """A prefill batch that passes its rows to a `RowGenerationBatch`."""

    decode_batch = RowGenerationBatch
    speculation: Speculation | None = None
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

    def extract_cache(self, idx: int) -> list[Any]:
        return extract_row(self.prompt_cache, idx)

    def prompt(self, tokens: list[list[int]]) -> None:
        if all(row.scorer is None for row in self.samplers):
            self._compute(tokens)
            return
        model, step_tokens = self.model, self.prefill_step_size
        scorers = [row.scorer for row in self.samplers]
        self.model = ScoringModel(model, scorers, [len(row) for row in tokens])
        # Each scored position needs an array of the size of the vocabulary.
        if step_tokens != WHOLE_TOKENS:
            self.prefill_step_size = min(step_tokens, MAX_SCORED_CHUNK_TOKENS)
        try:
            self._compute(tokens)
        finally:
            self.model, self.prefill_step_size = model, step_tokens

    def _compute(self, tokens: list[list[int]]) -> None:
        """Compute these tokens of each row, which follow those that its cache holds.

        mlx-lm waits for each slice and frees MLX's buffers after it, which the next one needs
        again. Here `wait` waits for the last part.
        """
        for history, row in zip(self.tokens, tokens, strict=True):
            history += row
        lengths = [len(row) for row in tokens]
        paddings = [max(lengths) - length for length in lengths]
        if any(paddings):
            for layer in self.prompt_cache:
                layer.prepare(lengths=lengths, right_padding=paddings)
        rows = [[*row, *([0] * padding)] for row, padding in zip(tokens, paddings, strict=True)]
        for start in range(0, max(lengths), self.prefill_step_size):
            if start:
                self.wait()
            part = mx.array([row[start : start + self.prefill_step_size] for row in rows])
            self.model(part, cache=self.prompt_cache)
        if any(paddings):
            for layer in self.prompt_cache:
                layer.finalize()
        mx.async_eval([layer.state for layer in self.prompt_cache])

    def reserve(self, tokens: int) -> None:
        """Extend the arrays for this many more tokens of each row, so that no slice copies them.

        The first slice makes arrays that do not exist yet.
        """
        for cache in list_growing(self.prompt_cache):
            end = cache.offset if isinstance(cache, KVCache) else cache._idx
            if cache.keys is not None and cache.keys.shape[2] < end + tokens:
                rows, room = cache.keys.shape[0], end + tokens
                cache.keys = extend_room(cache.keys, rows, end, room)
                cache.values = extend_room(cache.values, rows, end, room)

    def wait(self) -> None:
        """Wait until the device has computed the slice."""
        mx.eval([layer.state for layer in self.prompt_cache])

    def start(self, tokens: list[list[int]]) -> list[RowGenerationBatch]:
        """Start to decode, with the last token of each row."""
        return [self.generate(tokens)]

    def generate(self, tokens: list[list[int]]) -> RowGenerationBatch:
        if any(len(row) > 1 for row in tokens):
            self.prompt([row[:-1] for row in tokens])
        tokens = self._add_siblings(tokens)
        batch = self.decode_batch(
            self.model,
            self.uids,
            mx.array([row[-1] for row in tokens], mx.uint32),
            to_slots(self.prompt_cache),
            self.tokens,
            self.samplers,
            self.fallback_sampler,
            self.logits_processors,
            self.stop_sequences,
            self.max_tokens,
            speculation=self.speculation,
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


def list_growing(layers: Sequence[Any]) -> Iterator[Any]:
    """mlx-lm's caches whose arrays grow with each token."""
    for layer in layers:
        if type(layer) is CacheList:
            yield from list_growing(layer.caches)
        elif type(layer) in GROWING_CACHES:
            yield layer


def share_arrays(layers: Sequence[Any], own: Sequence[Any]) -> None:
    """Give a batch of one row the arrays of the row's own caches, which the prompt cache may hold.

    mlx-lm's `merge` copies them, but nothing has computed its copies yet.
    """
    for layer, cache in zip(layers, own, strict=True):
        if type(layer) is CacheList:
            share_arrays(layer.caches, cache.caches)
        elif isinstance(layer, BatchKVCache) and cache.keys is not None:
            layer.keys, layer.values = (
                array[..., : cache.offset, :] for array in (cache.keys, cache.values)
            )


class LonePromptBatch(RowPromptBatch):
    """A row alone, with mlx-lm's caches of one sequence."""

    decode_batch = LoneGenerationBatch

    @classmethod
    def create(cls, batch: LonePromptBatch, sequence: Any) -> LonePromptBatch:
        """Give an empty batch one of mlx-lm's waiting sequences."""
        uid, _, max_tokens, layers, tokens, row, processors, stop_sequences = sequence
        batch.uids, batch.tokens, batch.samplers = [uid], [tokens], [row]
        # Layers that come from the prompt cache are in it still.
        batch.prompt_cache = deepcopy(layers) if tokens else layers
        batch.max_tokens, batch.logits_processors = [max_tokens], [processors]
        batch.stop_sequences = [stop_sequences]
        return batch

    def extract_cache(self, idx: int) -> list[Any]:
        return to_plain(self.prompt_cache)

    def start(self, tokens: list[list[int]]) -> list[RowGenerationBatch]:
        [row] = self.samplers
        siblings, row.siblings = row.siblings, []
        batches = [self, *(self._copy_for(sibling) for sibling in siblings)]
        return [batch.generate(tokens) for batch in batches]

    def _copy_for(self, sibling: Sibling) -> LonePromptBatch:
        copied = copy(self)
        copied.uids, copied.samplers = [sibling.uid], [sibling.row]
        copied.prompt_cache, copied.tokens = deepcopy(self.prompt_cache), [list(self.tokens[0])]
        copied.max_tokens = [sibling.max_tokens]
        copied.stop_sequences = [make_stop_sequences(sibling.row.stop_token_ids)]
        return copied
