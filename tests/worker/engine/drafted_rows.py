"""Rows of a tiny model that decode with drafts, and the comparison of their answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlx_lm.utils import load_model

from protocol.events import FinishReason
from protocol.messages import Sampling
from protocol.quantisation import KVBits
from tests.oracle import text_tokens
from worker.cache.prefix_cache import PrefixCache
from worker.drafts.drafter import Drafter
from worker.engine.batches.speculation.draft_model import DraftModel
from worker.engine.batches.speculation.pass_costs import PassCosts
from worker.engine.batches.speculation.speculation import Speculation
from worker.engine.engine import Engine, Token
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import Constraint, make_row
from worker.engine.token_logprobs import Score

Constrain = Callable[[int], Constraint | None]
"""Makes the constraint of the row with this id."""

ROWS, TOKENS = 12, 40
SAMPLINGS = [
    Sampling(seed=0, temperature=0.0),
    Sampling(1, 0.4, top_p=0.9),
    Sampling(0, 0.0, presence_penalty=1.5),
    Sampling(0, 0.0, logit_bias={17: 4.0}),
    Sampling(2, 0.7, min_tokens=7, stop_tokens=[40, 41, 42]),
    Sampling(3, 1.0),
]


class FreePlaces(PassCosts):
    """Costs by which every draft pays."""

    def relative(self, rows: int, places: int) -> float:
        return 0.001

    def in_passes(self, rows: int, seconds: float) -> float:
        return 0.0


def make_engine(
    path: Path,
    *,
    speculates: bool,
    cache: PrefixCache | None = None,
    draft: DraftModel | None = None,
    kv_bits: KVBits = 0,
) -> Engine:
    """An engine whose drafts all pay, or that has none."""
    model, _ = load_model(path)
    speculation = Speculation(FreePlaces(), draft, None if draft is None else draft.kv_cost)
    return Engine(
        model,
        max_running=8,
        prefill=PrefillLimits(max_tokens=32),
        prompt_cache=cache,
        speculation=speculation if speculates else None,
        kv_bits=kv_bits,
    )


@dataclass
class Answer:
    """What a row has got; `passes` are the steps that gave it tokens."""

    tokens: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    reason: FinishReason | None = None
    passes: int = 0
    accepted: int = 0
    rejected: int = 0


def prompt_of(path: Path, id: int) -> list[int]:
    return text_tokens(path, f"Row {id} " + "and more and more " * (id % 5))


def insert(
    engine: Engine,
    path: Path,
    id: int,
    prediction: Sequence[int],
    resume: Sequence[int] = (),
    constraint: Constraint | None = None,
) -> None:
    prompt = prompt_of(path, id)
    sampling = SAMPLINGS[id % len(SAMPLINGS)]
    row = make_row(
        sampling,
        prompt=prompt,
        resume=resume,
        constraint=constraint,
        logprobs=2 if id % 2 else None,
        drafter=Drafter(prompt, resume, prediction),
    )
    engine.insert(id, [*prompt, *resume], TOKENS - len(resume), row)


def step(engine: Engine, answers: dict[int, Answer]) -> None:
    """One step, whose tokens are added to the answers."""
    take_tokens(engine.step(), answers)


def take_tokens(tokens: Sequence[Token], answers: dict[int, Answer]) -> None:
    """Add the tokens of one step to the answers."""
    for token in tokens:
        answer = answers.setdefault(token.id, Answer())
        answer.tokens.append(token.token)
        answer.reason = token.reason
        answer.accepted += token.drafted.accepted
        answer.rejected += token.drafted.rejected
        if token.score is not None:
            answer.scores.append(token.score)
    for id in {token.id for token in tokens}:
        answers[id].passes += 1


def answer_all(
    engine: Engine, path: Path, ids: Iterable[int], constrain: Constrain = lambda id: None
) -> dict[int, Answer]:
    """The answers of these rows, which have no prediction."""
    answers: dict[int, Answer] = {}
    for id in ids:
        insert(engine, path, id, [], constraint=constrain(id))
    while len(engine):
        step(engine, answers)
    return answers


@dataclass(frozen=True)
class Shares:
    """How often a row has a prediction, and how often one leaves in a step."""

    predicted: float
    leaves: float = 0.05


def join_and_leave(
    engine: Engine,
    path: Path,
    expected: dict[int, Answer],
    rng: random.Random,
    shares: Shares,
    drafts: Sized = (),
    constrain: Constrain = lambda id: None,
) -> tuple[dict[int, Answer], set[int]]:
    """The answers of all rows, and which of them left early; each joined and left at random.

    `drafts` are what a source keeps, which is at most that of the running rows.
    """
    answers: dict[int, Answer] = {}
    waiting, removed = list(range(ROWS)), set()
    while waiting or len(engine):
        if waiting and rng.random() < 0.4:
            id = waiting.pop()
            is_predicted = rng.random() < shares.predicted
            prediction = spoil(expected[id].tokens, rng) if is_predicted else []
            insert(engine, path, id, prediction, constraint=constrain(id))
        if answers and rng.random() < shares.leaves:
            removed.add(id := rng.choice(list(answers)))
            engine.remove([id])
        step(engine, answers)
        assert len(drafts) <= len(engine)
    for id, answer in answers.items():
        assert_equal(answer, expected[id], len(answer.tokens) if id in removed else None)
    return answers, removed


def spoil(tokens: Sequence[int], rng: random.Random) -> list[int]:
    """These tokens with some changed, some left out and some more."""
    spoilt: list[int] = []
    for token in tokens:
        match rng.randrange(12):
            case 0:
                spoilt.append(token + 1)
            case 1:
                pass
            case 2:
                spoilt += [token, 5]
            case _:
                spoilt.append(token)
    return spoilt


def assert_equal(answer: Answer, expected: Answer, length: int | None = None) -> None:
    assert answer.tokens == expected.tokens[:length]
    for score, other in zip(answer.scores, expected.scores[:length], strict=True):
        assert score.token == other.token
        assert score.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [id for id, _ in score.top] == [id for id, _ in other.top]
