"""Drafts change no token, no log-probability and no cache: they only save passes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlx_lm.utils import load_model

from protocol.events import FinishReason
from protocol.messages import Sampling
from tests.oracle import text_tokens
from worker.cache.prefix_cache import PrefixCache
from worker.drafts.drafter import Drafter
from worker.engine.batches import row_positions
from worker.engine.batches.speculation.pass_costs import PassCosts
from worker.engine.batches.speculation.speculation import Speculation
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row
from worker.engine.token_logprobs import Score

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


@dataclass
class Answer:
    """What a row has got; `passes` are the steps that gave it tokens."""

    tokens: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    reason: FinishReason | None = None
    passes: int = 0
    accepted: int = 0
    rejected: int = 0


def make_engine(path: Path, *, speculates: bool, cache: PrefixCache | None = None) -> Engine:
    model, _ = load_model(path)
    return Engine(
        model,
        max_running=8,
        prefill=PrefillLimits(max_tokens=32),
        prompt_cache=cache,
        speculation=Speculation(FreePlaces()) if speculates else None,
    )


def prompt_of(path: Path, id: int) -> list[int]:
    return text_tokens(path, f"Row {id} " + "and more and more " * (id % 5))


def insert(
    engine: Engine, path: Path, id: int, prediction: Sequence[int], resume: Sequence[int] = ()
) -> None:
    prompt = prompt_of(path, id)
    sampling = SAMPLINGS[id % len(SAMPLINGS)]
    row = make_row(
        sampling,
        prompt=prompt,
        resume=resume,
        logprobs=2 if id % 2 else None,
        drafter=Drafter(prompt, resume, prediction),
    )
    engine.insert(id, [*prompt, *resume], TOKENS - len(resume), row)


def step(engine: Engine, answers: dict[int, Answer]) -> None:
    """One step, whose tokens are added to the answers."""
    tokens = engine.step()
    for token in tokens:
        answer = answers.setdefault(token.id, Answer())
        answer.tokens.append(token.token)
        answer.reason = token.reason
        answer.accepted += token.accepted
        answer.rejected += token.rejected
        if token.score is not None:
            answer.scores.append(token.score)
    for id in {token.id for token in tokens}:
        answers[id].passes += 1


@pytest.fixture(scope="module")
def expected(llama_path: Path) -> dict[int, Answer]:
    """The answers of the rows without drafts."""
    answers: dict[int, Answer] = {}
    engine = make_engine(llama_path, speculates=False)
    for id in range(ROWS):
        insert(engine, llama_path, id, [])
    while len(engine):
        step(engine, answers)
    return answers


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


@pytest.mark.parametrize("seed", range(3))
def test_rows_with_drafts_join_and_leave_and_get_the_tokens_that_they_get_alone(
    llama_path: Path, expected: dict[int, Answer], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Holes are closed often.
    monkeypatch.setattr(row_positions, "MAX_WASTED_PLACES", 6 + seed)
    rng = random.Random(seed)
    engine = make_engine(llama_path, speculates=True, cache=PrefixCache(1 << 30))
    answers: dict[int, Answer] = {}
    waiting, removed = list(range(ROWS)), set()
    while waiting or len(engine):
        if waiting and rng.random() < 0.4:
            id = waiting.pop()
            insert(engine, llama_path, id, spoil(expected[id].tokens, rng))
        if answers and rng.random() < 0.05:
            removed.add(id := rng.choice(list(answers)))
            engine.remove([id])
        step(engine, answers)
    for id, answer in answers.items():
        length = len(answer.tokens) if id in removed else None
        assert_equal(answer, expected[id], length)
        if id not in removed:
            assert answer.reason == expected[id].reason
    kept = [answer for id, answer in answers.items() if id not in removed]
    assert sum(answer.passes for answer in kept) < sum(len(answer.tokens) for answer in kept)
    assert sum(answer.rejected for answer in answers.values()) > 0
