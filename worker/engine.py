"""Continuous batching of one model: the only file that touches `mlx_lm.generate`.

mlx-lm's `BatchGenerator` schedules prefill and decode. Two of its parts are
extended, both for mlx-lm 0.32.2 and held to mlx-lm's own output by
tests/worker/test_engine.py:

- sampling: a row carries its seed and position, and rows with the same
  parameters are drawn in one call; mlx-lm's samplers know no rows.
- log-probabilities: mlx-lm normalises and keeps a full-vocabulary array a row
  a step. Nothing reads them here, so none are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch

from protocol.messages import FinishReason
from worker.sampling import Row, draw_tokens

PREFILL_ROWS = 8


@dataclass(frozen=True, slots=True)
class Token:
    """One row's next token; `reason` is set on its last."""

    id: int
    token: int
    reason: FinishReason | None


class Engine:
    """The rows of one model that are in prefill or decoding, by the request's id."""

    def __init__(
        self,
        model: nn.Module,
        stop_tokens: Iterable[int],
        *,
        max_running: int,
        prefill_step_tokens: int,
    ) -> None:
        self._generator = RowBatchGenerator(
            model,
            stop_tokens=[[token] for token in sorted(stop_tokens)],
            completion_batch_size=max_running,
            prefill_batch_size=min(PREFILL_ROWS, max_running),
            prefill_step_size=prefill_step_tokens,
        )
        # Undoes the wired limit that the constructor sets: a non-empty residency
        # set can panic macOS (mlx issue 3186).
        self._generator.close()
        self._uid_of: dict[int, int] = {}
        self._id_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._uid_of)

    def insert(self, id: int, prompt: Sequence[int], max_tokens: int, row: Row) -> None:
        """Queue a row for prefill. `prompt` is not empty and `max_tokens` is at least 1."""
        [uid] = self._generator.insert([list(prompt)], max_tokens=[max_tokens], samplers=[row])
        self._uid_of[id] = uid
        self._id_of[uid] = id

    def remove(self, ids: Iterable[int]) -> None:
        """Drop rows in any stage and free their cache; unknown ids are ignored."""
        uids = [self._forget(id) for id in ids if id in self._uid_of]
        if uids:
            self._generator.remove(uids)

    def step(self) -> list[Token]:
        """One decode of every running row and one slice of prefill.

        Raises:
            RuntimeError: the device failed; nothing in this process can be trusted now.
        """
        _, responses = self._generator.next()
        tokens = [
            Token(self._id_of[response.uid], response.token, response.finish_reason)
            for response in responses
        ]
        for token in tokens:
            if token.reason is not None:
                self._forget(token.id)
        return tokens

    def _forget(self, id: int) -> int:
        uid = self._uid_of.pop(id)
        del self._id_of[uid]
        return uid


class RowGenerationBatch(GenerationBatch):
    """Decoding whose per-sequence `samplers` are `Row`s."""

    tokens: list[list[int]]
    samplers: list[Row]
    _next_tokens: mx.array

    def _step(self) -> tuple[list[int], list[None]]:
        self._current_tokens = inputs = self._next_tokens
        logits = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        self._next_tokens = draw_tokens(logits, self.samplers)
        mx.async_eval(self._next_tokens)
        # The device computes the next tokens while these are read and turned into text.
        tokens: list[int] = inputs.tolist()  # type: ignore[assignment]
        for history, token in zip(self.tokens, tokens, strict=True):
            history.append(token)
        self._next_logprobs = [None] * len(tokens)
        return tokens, self._next_logprobs


class RowPromptBatch(PromptProcessingBatch):
    """Prefill that hands its rows to a `RowGenerationBatch`."""

    uids: list[int]
    prompt_cache: list[Any]
    tokens: list[list[int]]
    samplers: list[Row]
    logits_processors: list[Any]
    max_tokens: list[int]

    def generate(self, tokens: list[list[int]]) -> RowGenerationBatch:
        if any(len(row) > 1 for row in tokens):
            self.prompt([row[:-1] for row in tokens])
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


class RowBatchGenerator(BatchGenerator):
    """mlx-lm's scheduler over the two batches above."""

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        super().__init__(model, **settings)
        self._prompt_batch = RowPromptBatch.empty(model, self.sampler, self.prefill_step_size)
        self._generation_batch = RowGenerationBatch.empty(model, self.sampler)
