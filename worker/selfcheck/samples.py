"""Token sequences, and the log-probabilities that a model gives them in one pass, alone."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from protocol.batching import BatchRules
from worker.engine.engine import Engine
from worker.engine.sampler import make_row
from worker.engine.token_logprobs import PromptScorer, Score
from worker.selfcheck.scored_rows import (
    GREEDY,
    TOP_COUNT,
    ScoredRow,
    Steps,
    largest_difference,
    run_rows,
)

WHOLE_ALONE = BatchRules(batching="none", reuses_prefixes=False, slices_prompts=False)
ANSWER_TOKENS = 3
FIRST_TOKEN, MAX_TOKEN_IDS = 3, 250
INFINITE = float("inf")


@dataclass(frozen=True, slots=True)
class Sample:
    """Tokens and their expected scores; the scores of token n are number n - 1.

    `alone` are the scores of the answers of prompts that were decoded alone, by their length.
    They are expected instead where they are known. An answer has `answer_tokens`.
    """

    tokens: list[int]
    scores: list[Score]
    answer_tokens: int = ANSWER_TOKENS
    alone: dict[int, list[Score]] = field(default_factory=dict)

    def row(
        self,
        length: int,
        *,
        breakpoints: Sequence[int] = (),
        joins_after: int = 0,
        leaves_after: int | None = None,
    ) -> ScoredRow:
        """A row whose prompt is the first `length` tokens, and whose answer are the next."""
        return ScoredRow(
            prompt=self.tokens[:length],
            answer=self.tokens[length : length + self.answer_tokens],
            expected=self.alone.get(length, self.scores[length - 1 :]),
            breakpoints=breakpoints,
            joins_after=joins_after,
            leaves_after=leaves_after,
        )


def rounding_of(samples: Sequence[Sample]) -> float:
    """How much decoding alone differs from one pass: by rounding, in most models."""
    return max(
        largest_difference(sample.scores[length - 1 :], scores)
        for sample in samples
        for length, scores in sample.alone.items()
    )


def make_tokens(number: int, length: int, vocabulary_size: int) -> list[int]:
    """A sequence of the usual length; sequences of other numbers differ from the first token."""
    ids = min(vocabulary_size - FIRST_TOKEN, MAX_TOKEN_IDS)
    return [(7 * i + i * i // 5 + 31 * number) % ids + FIRST_TOKEN for i in range(length)]


def measure_sample(
    engine: Engine, tokens: list[int], answer_tokens: int
) -> Generator[None, None, Sample]:
    """Compute the scores of these tokens in one pass: one device step.

    Raises:
        ModelFailed: the model cannot compute them.
    """
    engine.rules = WHOLE_ALONE
    scorer = PromptScorer(tokens, TOP_COUNT)
    engine.insert(0, tokens, 1, make_row(GREEDY, scorer=scorer))
    while len(engine) and len(scorer.scores) < len(tokens) - 2:
        engine.step()
        yield
    engine.remove([0])
    if engine.failed:
        raise ModelFailed(engine.failed[0].reason)
    return Sample(tokens, scorer.scores, answer_tokens)


def measure_alone(engine: Engine, sample: Sample, lengths: Sequence[int]) -> Steps:
    """Compute the scores of prompts of these lengths, each in one slice and decoded alone.

    Some models of mlx-lm differ between that and one pass: their own decoding counts.
    """
    engine.rules = WHOLE_ALONE
    rows = [sample.row(length) for length in lengths]
    yield from run_rows(engine, rows)
    sample.alone.update(
        {len(row.prompt): row.scores for row in rows if len(row.scores) == len(row.answer)}
    )


class ModelFailed(Exception):
    """The model raises even for one row alone; the message is its error."""


def worst_of(rows: Sequence[ScoredRow]) -> float:
    """The largest difference of these rows from what is expected; infinite for a failed one."""
    return max(
        INFINITE if row.failure or not row.scores else largest_difference(row.expected, row.scores)
        for row in rows
    )
