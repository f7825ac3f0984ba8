"""Rows with given answers, whose log-probabilities are compared with those of another run."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from protocol.messages import Sampling
from worker.engine.bitmask import WORD_BITS, BitMask
from worker.engine.engine import Engine
from worker.engine.sampler import make_row
from worker.engine.token_logprobs import Score

TOP_COUNT = 20
GREEDY = Sampling(seed=0, temperature=0.0)

Steps = Generator[None, None, None]
"""Device steps: each `next` is one of them."""


class ForcedTokens:
    """A constraint that allows one token at a time."""

    complete = False

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._accepted = 0

    def accept(self, token: int) -> None:
        self._accepted += 1

    def mask(self) -> BitMask | None:
        if self._accepted >= len(self._tokens):
            return None
        token = self._tokens[self._accepted]
        words = np.zeros(token // WORD_BITS + 1, np.uint32)
        words[-1] = 1 << (token % WORD_BITS)
        return words.view(np.int32)


@dataclass(slots=True)
class ScoredRow:
    """A prompt and the tokens of its answer; `breakpoints` are where its prefill is sliced.

    It joins after `joins_after` steps of decoding, and leaves after `leaves_after` tokens.
    `scores` are those of its answer, and `expected` what they should be. `failure` is an error
    of the model in one of its calls, `cached_tokens` are those that it did not compute.
    """

    prompt: list[int]
    answer: list[int]
    expected: Sequence[Score]
    breakpoints: Sequence[int] = ()
    joins_after: int = 0
    leaves_after: int | None = None
    scores: list[Score] = field(default_factory=list)
    failure: str | None = None
    cached_tokens: int = 0


def run_rows(engine: Engine, rows: Sequence[ScoredRow]) -> Steps:
    """Compute these rows together; the steps of the engine, one at a time."""
    joining = sorted(enumerate(rows), key=lambda pair: pair[1].joins_after)
    decoded = 0
    while joining or len(engine):
        while joining and (joining[0][1].joins_after <= decoded or not len(engine)):
            id, row = joining.pop(0)
            insert_row(engine, id, row)
        tokens = engine.step()
        decoded += bool(tokens)
        for token in tokens:
            row = rows[token.id]
            if token.score is not None:
                row.scores.append(token.score)
            if len(row.scores) == row.leaves_after:
                engine.remove([token.id])
        for failed in engine.take_failed():
            rows[failed.id].failure = failed.reason
        yield


def insert_row(engine: Engine, id: int, row: ScoredRow) -> None:
    """Insert a row that draws its answer and scores it."""
    sampler_row = make_row(GREEDY, constraint=ForcedTokens(row.answer), logprobs=TOP_COUNT)
    row.cached_tokens = engine.insert(id, row.prompt, len(row.answer), sampler_row, row.breakpoints)


def largest_difference(expected: Sequence[Score], scores: Sequence[Score]) -> float:
    """The largest difference of the log-probabilities of the expected most likely tokens."""
    pairs = zip(expected, scores, strict=False)
    return max((score_difference(one, other) for one, other in pairs), default=0.0)


def score_difference(expected: Score, score: Score) -> float:
    """The same for one position; a token that is not among the others' counts as their last."""
    logprobs = dict(score.top)
    last = score.top[-1][1]
    return max(difference(value, logprobs.get(id, last)) for id, value in expected.top)


def difference(one: float, other: float) -> float:
    """The absolute difference; infinite where only one of them is a number."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    distance = abs(one - other)
    return distance if math.isfinite(distance) else math.inf
