"""An error of a model's code costs the rows of that call; an error of the device ends the step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlx_lm.utils import load_model

from protocol.messages import Sampling
from tests.models.failing import FailingModel
from tests.oracle import greedy_tokens, text_tokens
from worker.cache.prefix_cache import PrefixCache
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row

GREEDY = Sampling(seed=0, temperature=0.0)
TOKENS = 20
LONG_S = 60.0


def make_engine(
    path: Path, error: BaseException, when: Callable[[int, int], bool]
) -> tuple[Engine, FailingModel, PrefixCache]:
    inner, _ = load_model(path)
    model = FailingModel(inner, error, lambda inputs: when(*inputs.shape))
    model.is_intact = True
    cache = PrefixCache(1 << 28)
    limits = PrefillLimits(max_tokens=512, slice_s=LONG_S)
    engine = Engine(model, max_running=8, prefill=limits, prompt_cache=cache)
    model.is_intact = False
    return engine, model, cache


def draw(engine: Engine) -> tuple[dict[int, list[int]], list[int]]:
    """The tokens by id, and the ids of the rows that failed, until no row is left."""
    tokens: dict[int, list[int]] = {}
    failed: list[int] = []
    while len(engine):
        for token in engine.step():
            tokens.setdefault(token.id, []).append(token.token)
        failed += [row.id for row in engine.failed]
    return tokens, failed


ERRORS = [
    TypeError("t"),
    ValueError("v"),
    AttributeError("a"),
    IndexError("i"),
    KeyError("k"),
    NotImplementedError("n"),
    AssertionError(),
    SystemExit(3),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("stage", ["decode", "prefill"])
def test_the_rows_of_a_call_that_raises_fail_and_are_right_alone(
    llama_path: Path, error: BaseException, stage: str
) -> None:
    in_stage: dict[str, Callable[[int, int], bool]] = {
        "decode": lambda rows, tokens: rows > 1 and tokens == 1,
        "prefill": lambda rows, tokens: rows > 1 and tokens > 1,
    }
    engine, _, cache = make_engine(llama_path, error, in_stage[stage])
    prompts = [text_tokens(llama_path, "Say " * n) for n in (3, 5, 8)]
    for id, prompt in enumerate(prompts):
        engine.insert(id, prompt, TOKENS, make_row(GREEDY))
    tokens, failed = draw(engine)
    assert failed
    before = cache.nbytes
    for id in failed:
        engine.insert(id, prompts[id], TOKENS, make_row(GREEDY), alone=True)
    again, failed_again = draw(engine)
    assert failed_again == []
    assert cache.nbytes == before
    for id, prompt in enumerate(prompts):
        answer = again[id] if id in failed else tokens[id]
        assert answer == greedy_tokens(llama_path, prompt, TOKENS)


def test_the_siblings_of_a_prompt_fail_with_it(llama_path: Path) -> None:
    engine, model, cache = make_engine(llama_path, ValueError(), lambda rows, tokens: True)
    prompt = text_tokens(llama_path, "Say it")
    for id in range(3):
        engine.insert(id, prompt, TOKENS, make_row(GREEDY))
    tokens, failed = draw(engine)
    assert (tokens, sorted(failed)) == ({}, [0, 1, 2])
    assert cache.nbytes == 0
    model.is_intact = True
    for id in range(3):
        engine.insert(id, prompt, TOKENS, make_row(GREEDY), alone=True)
    assert draw(engine) == ({id: greedy_tokens(llama_path, prompt, TOKENS) for id in range(3)}, [])


@pytest.mark.parametrize("error", [RuntimeError("[metal::malloc]"), MemoryError()])
def test_an_error_of_the_device_ends_the_step(llama_path: Path, error: BaseException) -> None:
    engine, _, _ = make_engine(llama_path, error, lambda rows, tokens: True)
    engine.insert(0, text_tokens(llama_path, "Say it"), TOKENS, make_row(GREEDY))
    with pytest.raises(type(error)):
        draw(engine)
