"""Log-probabilities are the model's own, on request; rows with one prompt share a prefill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load_model

from protocol.messages import Sampling
from tests.oracle import greedy_tokens, text_tokens
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row
from worker.engine.token_logprobs import PromptScorer, Score
from worker.outputs.output_processor import LOWEST_LOGPROB, finite

GREEDY = Sampling(seed=0, temperature=0.0)
TOKENS = 12


class CountingModel:
    """A model that counts its input tokens."""

    def __init__(self, path: Path) -> None:
        self.model: nn.Module = load_model(path)[0]
        self.tokens = 0

    def __call__(self, inputs: mx.array, **options: Any) -> mx.array:
        self.tokens += inputs.size
        logits: mx.array = self.model(inputs, **options)
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def make_engine(model: Any) -> Engine:
    return Engine(model, max_running=16, prefill=PrefillLimits(max_tokens=32))


def run(engine: Engine) -> dict[int, list[tuple[int, Score | None]]]:
    drawn: dict[int, list[tuple[int, Score | None]]] = {}
    while len(engine):
        for token in engine.step():
            drawn.setdefault(token.id, []).append((token.token, token.score))
    return drawn


def test_scores_are_those_of_mlx_lm_and_only_of_rows_that_request_them(llama_path: Path) -> None:
    prompt = text_tokens(llama_path, "score this")
    model = load_model(llama_path)[0]
    theirs = BatchGenerator(model, max_tokens=TOKENS)
    theirs.insert([prompt])
    expected = [theirs.next_generated()[0] for _ in range(TOKENS)]
    engine = make_engine(model)
    for id, count in enumerate((None, 0, 3, 20)):
        sampling = Sampling(0, 0.0, logit_bias={7: -100.0}, frequency_penalty=0.0)
        engine.insert(id, prompt, TOKENS, make_row(sampling, prompt=prompt, logprobs=count))
    drawn = run(engine)
    assert {score for _, score in drawn[0]} == {None}
    for id, count in ((1, 0), (2, 3), (3, 20)):
        for (token, score), reference in zip(drawn[id], expected, strict=True):
            assert score is not None
            assert (token, score.token) == (reference.token, reference.token)
            assert score.logprob == pytest.approx(reference.logprobs[token].item(), abs=1e-4)
            best = mx.sort(reference.logprobs)[::-1][:count].tolist()
            assert [value for _, value in score.top] == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("length", [1, 2, 33, 150])
def test_the_scores_of_a_prompt_are_those_of_one_pass_over_it(
    llama_path: Path, length: int
) -> None:
    model = load_model(llama_path)[0]
    prompt = (text_tokens(llama_path, "a long prompt to score, " * 40))[:length]
    engine = make_engine(model)
    scorer = PromptScorer(prompt, 2)
    engine.insert(0, prompt, 2, make_row(GREEDY, scorer=scorer))
    other = text_tokens(llama_path, "beside it " * 30)
    engine.insert(1, other, TOKENS, make_row(GREEDY))
    assert [token for token, _ in run(engine)[1]] == greedy_tokens(llama_path, other, TOKENS)
    logits = model(mx.array([prompt]))[0]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    assert [score.token for score in scorer.scores] == prompt[1:]
    for index, score in enumerate(scorer.scores):
        assert score.logprob == pytest.approx(logprobs[index, prompt[index + 1]].item(), abs=1e-3)
        assert score.top[0][0] == mx.argmax(logprobs[index]).item()


def test_rows_with_one_prompt_share_a_prefill_and_draw_what_each_draws_alone(
    llama_path: Path, gemma_path: Path
) -> None:
    for path in (llama_path, gemma_path):
        model = CountingModel(path)
        prompt = text_tokens(path, "shared by all of them " * 20)
        rows = [Sampling(seed, 1.0, presence_penalty=seed / 4) for seed in range(5)]
        alone = []
        for sampling in rows:
            engine = make_engine(model)
            engine.insert(0, prompt, TOKENS, make_row(sampling, prompt=prompt))
            alone.append(run(engine)[0])
        engine = make_engine(model)
        model.tokens = 0
        for id, sampling in enumerate(rows):
            engine.insert(id, prompt, TOKENS, make_row(sampling, prompt=prompt))
        together = run(engine)
        assert [together[id] for id in range(5)] == alone
        assert model.tokens < len(prompt) + 5 * (TOKENS + 2)


@pytest.mark.parametrize("removed", [[0], [1], [0, 1], [2]])
def test_any_row_of_a_shared_prefill_can_be_removed_before_its_end(
    llama_path: Path, removed: list[int]
) -> None:
    engine = make_engine(load_model(llama_path)[0])
    prompt = text_tokens(llama_path, "some of them leave " * 20)
    for id in range(4):
        engine.insert(id, prompt, TOKENS, make_row(GREEDY))
    engine.step()
    engine.remove(removed)
    expected = greedy_tokens(llama_path, prompt, TOKENS)
    drawn = run(engine)
    assert set(drawn) == {0, 1, 2, 3} - set(removed)
    assert all([token for token, _ in tokens] == expected for tokens in drawn.values())


@pytest.mark.parametrize(
    ("logprob", "expected"),
    [(-0.5, -0.5), (1e-9, 0.0), (float("-inf"), LOWEST_LOGPROB), (float("nan"), LOWEST_LOGPROB)],
)
def test_a_returned_logprob_is_always_finite(logprob: float, expected: float) -> None:
    assert finite(logprob) == expected
