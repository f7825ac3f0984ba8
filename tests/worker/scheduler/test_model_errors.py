"""A request whose model raises runs again alone; the second time it fails, and no other does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from protocol.events import Failed, Started
from protocol.messages import Sampling, Submit, TokenPrompt
from tests.models.failing import FailingModel
from tests.oracle import greedy_tokens, text_tokens
from tests.worker.driver import end_of, events_of, make_pool, run_loop, tokens_of
from worker.models import weight_loader
from worker.models.pool import ModelPool

TOKENS = 24
# The model never draws it: it has no text.
POISON = 1020


def open_failing(
    path: Path,
    when: Callable[[mx.array], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[ModelPool, FailingModel]:
    """A pool with a model that raises where `when` is true of its input, from now on."""
    made: list[FailingModel] = []

    def load(path: Path, **options: Any) -> tuple[Any, Any]:
        model, config = load_model(path, **options)
        made.append(FailingModel(model, TypeError("no such shape"), when))
        made[0].is_intact = True
        return made[0], config

    monkeypatch.setattr(weight_loader, "load_model", load)
    pool = make_pool(path)
    made[0].is_intact = False
    return pool, made[0]


def submits(path: Path, prompts: list[list[int]]) -> list[Submit]:
    return [
        Submit(id, path.name, TokenPrompt(prompt), Sampling(seed=0, temperature=0.0), TOKENS)
        for id, prompt in enumerate(prompts)
    ]


def test_requests_whose_batch_fails_are_answered_alone(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, model = open_failing(llama_path, lambda inputs: inputs.shape[0] > 1, monkeypatch)
    prompts = [text_tokens(llama_path, "Say it " * n) for n in (3, 20, 60)]
    steps = run_loop(pool, submits(llama_path, prompts))
    assert model.failures
    for id, prompt in enumerate(prompts):
        assert tokens_of(steps, id) == greedy_tokens(llama_path, prompt, TOKENS)
        assert sum(isinstance(event, Started) for event in events_of(steps, id)) == 1


def test_a_request_whose_model_fails_twice_fails_and_the_others_are_answered(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_poisoned(inputs: mx.array) -> bool:
        return bool(mx.any(inputs == POISON).item())

    pool, model = open_failing(llama_path, is_poisoned, monkeypatch)
    prompts = [text_tokens(llama_path, "Say it " * n) for n in (3, 20, 60)]
    steps = run_loop(pool, submits(llama_path, [[*prompts[0], POISON], *prompts]))
    assert model.failures == 2
    assert end_of(steps, 0) == Failed(0, "The model failed twice: TypeError: no such shape")
    for id, prompt in enumerate(prompts, 1):
        assert tokens_of(steps, id) == greedy_tokens(llama_path, prompt, TOKENS)


def test_what_a_failed_request_had_reserved_is_free_again(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, _ = open_failing(llama_path, lambda inputs: True, monkeypatch)
    run_loop(pool, submits(llama_path, [[1, 2, 3], [4, 5, 6]]))
    assert pool.account.kv_bytes == 0
    assert len(pool[llama_path.name].engine) == 0
