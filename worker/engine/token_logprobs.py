"""Log-probabilities of drawn tokens and of prompts, for the rows that ask.

They are of the model's own distribution: before penalties, bias, constraints,
filters and temperature. Arrays stay on the device until a row's token is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Score:
    """One token's log-probability, and the likeliest tokens at its place, best first."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


class Scores:
    """Scores of tokens (of shape [places]) under logits (of shape [places, vocabulary])."""

    def __init__(self, logits: mx.array, tokens: mx.array, most: int) -> None:
        logits = logits.astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        most = min(most, logits.shape[-1])
        self._most = most
        self.arrays = [tokens, mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]]
        if most:
            ids = mx.argpartition(-logprobs, kth=most - 1, axis=-1)[:, :most]
            values = mx.take_along_axis(logprobs, ids, axis=-1)
            order = mx.argsort(-values, axis=-1)
            self.arrays += [mx.take_along_axis(part, order, axis=-1) for part in (ids, values)]

    def read(self, place: int, count: int) -> Score:
        """One place's score with its `count` likeliest tokens."""
        tokens, logprobs, *top = self._lists
        best = [part[place][:count] for part in top]
        pairs = list(zip(*best, strict=True)) if best else []
        return Score(tokens[place], logprobs[place], pairs)

    @cached_property
    def _lists(self) -> list[Any]:
        return [array.tolist() for array in self.arrays]


@dataclass(frozen=True, slots=True)
class PendingScore:
    """One row's score, still on the device."""

    scores: Scores
    place: int
    count: int

    def read(self) -> Score:
        """The score on the host."""
        return self.scores.read(self.place, self.count)


def score_rows(
    logits: mx.array, tokens: mx.array, counts: Sequence[int | None]
) -> tuple[list[PendingScore | None], list[mx.array]]:
    """Each row's score where its count is not None, and the arrays that they wait for."""
    asking = [(place, count) for place, count in enumerate(counts) if count is not None]
    pending: list[PendingScore | None] = [None] * len(counts)
    if not asking:
        return pending, []
    places = mx.array([place for place, _ in asking])
    scores = Scores(logits[places], tokens[places], max(count for _, count in asking))
    for line, (place, count) in enumerate(asking):
        pending[place] = PendingScore(scores, line, count)
    return pending, scores.arrays


class PromptScorer:
    """Scores a prompt's tokens during its prefill; the first one has none before it."""

    def __init__(self, prompt: Sequence[int], count: int) -> None:
        self.scores: list[Score] = []
        self._prompt = prompt
        self._count = count

    def push(self, logits: mx.array) -> None:
        """Take the logits of the next places of the prompt, of shape [places, vocabulary]."""
        begin = len(self.scores) + 1
        targets = list(self._prompt[begin : begin + logits.shape[0]])
        scores = Scores(logits[: len(targets)], mx.array(targets, mx.uint32), self._count)
        self.scores += [scores.read(place, self._count) for place in range(len(targets))]
