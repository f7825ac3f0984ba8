"""Log-probabilities of drawn tokens and of prompts, for the rows that request them.

They are those of the model's own distribution: before penalties, bias, constraints,
filters and temperature. The arrays stay on the device until a row's token is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn


@dataclass(frozen=True, slots=True)
class Score:
    """One token's log-probability, and the most likely tokens at its position, best first."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


class Scores:
    """Scores of tokens (of shape [positions]) under logits (of shape [positions, vocabulary])."""

    def __init__(self, logits: mx.array, tokens: mx.array, max_top: int) -> None:
        logprobs = to_logprobs(logits)
        max_top = min(max_top, logits.shape[-1])
        self.arrays = [tokens, mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]]
        if max_top:
            ids = mx.argpartition(-logprobs, kth=max_top - 1, axis=-1)[:, :max_top]
            values = mx.take_along_axis(logprobs, ids, axis=-1)
            order = mx.argsort(-values, axis=-1)
            self.arrays += [mx.take_along_axis(part, order, axis=-1) for part in (ids, values)]

    def read(self, index: int, top_count: int) -> Score:
        """The score at one position with its `top_count` most likely tokens, on the host."""
        tokens, logprobs, *top = self._lists
        best = [part[index][:top_count] for part in top]
        pairs = list(zip(*best, strict=True)) if best else []
        return Score(tokens[index], logprobs[index], pairs)

    @cached_property
    def _lists(self) -> list[Any]:
        return [array.tolist() for array in self.arrays]


@dataclass(frozen=True, slots=True)
class PendingScore:
    """One row's score that is still on the device."""

    scores: Scores
    index: int
    top_count: int

    def read(self) -> Score:
        """The score on the host."""
        return self.scores.read(self.index, self.top_count)


def score_rows(
    logits: mx.array, tokens: mx.array, top_counts: Sequence[int | None]
) -> tuple[list[PendingScore | None], list[mx.array]]:
    """The score of each row whose count is not None, and the arrays to evaluate for them."""
    requested = [(row, count) for row, count in enumerate(top_counts) if count is not None]
    pending: list[PendingScore | None] = [None] * len(top_counts)
    if not requested:
        return pending, []
    rows = mx.array([row for row, _ in requested])
    scores = Scores(logits[rows], tokens[rows], max(count for _, count in requested))
    for index, (row, count) in enumerate(requested):
        pending[row] = PendingScore(scores, index, count)
    return pending, scores.arrays


class PromptScorer:
    """Scores a prompt's tokens during its prefill, except the first, which nothing precedes."""

    def __init__(self, prompt: Sequence[int], top_count: int) -> None:
        self.scores: list[Score] = []
        self._prompt = prompt
        self.top_count = top_count

    def push(self, logits: mx.array) -> None:
        """Score the tokens after the next positions, by logits of [positions, vocabulary]."""
        begin = len(self.scores) + 1
        targets = list(self._prompt[begin : begin + logits.shape[0]])
        scores = Scores(logits[: len(targets)], mx.array(targets, mx.uint32), self.top_count)
        self.scores += [scores.read(index, self.top_count) for index in range(len(targets))]


class ScoringModel:
    """A model that passes the logits of a batch's prompts to the scorers of their rows."""

    def __init__(
        self, model: nn.Module, scorers: Sequence[PromptScorer | None], lengths: list[int]
    ) -> None:
        self._model = model
        self._scorers = scorers
        self._remaining = lengths

    def __call__(self, inputs: mx.array, cache: list[Any]) -> mx.array:
        logits: mx.array = self._model(inputs, cache=cache)
        for index, scorer in enumerate(self._scorers):
            width = min(self._remaining[index], inputs.shape[1])
            self._remaining[index] -= width
            if scorer is not None and width:
                scorer.push(logits[index, :width])
        return logits


def to_logprobs(logits: mx.array) -> mx.array:
    """The log-probabilities of these logits, in float32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
