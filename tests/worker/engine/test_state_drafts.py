"""A source of drafts that reads the states of the model's last layer, as heads of a model do."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.utils import load_model

from tests.worker.engine.drafted_rows import (
    ROWS,
    Answer,
    FreePlaces,
    Shares,
    answer_all,
    assert_equal,
    join_and_leave,
    prompt_of,
)
from worker.cache.prefix_cache import PrefixCache
from worker.drafts.source import KeptPlaces, Text
from worker.engine.batches import row_positions
from worker.engine.batches.speculation.speculation import Speculation
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits

# Of states in a batch from those alone.
TOLERANCE = 1e-4
FEATURES = 1024
RIDGE = 1e-9


class Head:
    """Guesses the next state from a state and the embedding of the token drawn from it.

    Two layers: random features, and `weight` of [features, width].
    """

    def __init__(self, model: nn.Module, weight: mx.array) -> None:
        self._model = model
        self._weight = weight
        self._states: dict[int, tuple[mx.array, KeptPlaces]] = {}
        self.passes = self.wrong_states = 0

    def __len__(self) -> int:
        return len(self._states)

    def pass_s(self) -> float:
        return 0.0

    def is_ready(self, text: Text) -> bool:
        return id(text) in self._states

    def prepare(self, text: Text, seconds: float) -> None:
        raise AssertionError("a text that decodes has a state")

    def release(self, text: Text) -> None:
        self._states.pop(id(text), None)

    @property
    def slack_bytes(self) -> int:
        return 0

    def grow_within(self, spare_bytes: Callable[[], int]) -> None:
        """It holds nothing."""

    def squeeze(self) -> None:
        """It has no slack."""

    def compute(self, tokens: mx.array, cache: list[Any]) -> tuple[mx.array, mx.array]:
        self.passes += 1
        states = self._model.model(tokens, cache)
        return self._model.lm_head(states), states

    def follow(self, states: mx.array, kept: Sequence[KeptPlaces]) -> None:
        for each in kept:
            self._states[id(each.text)] = states, each

    def propose(self, texts: Sequence[Text], count: int) -> list[list[int]]:
        state = mx.stack([self._state_of(text) for text in texts])
        tokens = mx.array([text.read()[-1] for text in texts])
        drawn = []
        for _ in range(count):
            state = make_features(self._model, state, tokens) @ self._weight
            tokens = mx.argmax(self._model.lm_head(state), axis=-1)
            drawn.append(tokens)
        guesses: list[list[int]] = mx.stack(drawn, axis=1).tolist()  # type: ignore[assignment]
        return guesses

    def _state_of(self, text: Text) -> mx.array:
        states, kept = self._states[id(text)]
        state = states[kept.slot, kept.count - 1]
        alone = self._model.model(mx.array([text.read()[:-1]]))[0, -1]
        self.wrong_states += not mx.allclose(state, alone, rtol=TOLERANCE, atol=TOLERANCE)
        return state


def make_features(model: nn.Module, states: mx.array, tokens: mx.array) -> mx.array:
    """What the second layer of a head gets: [..., features]."""
    pair = mx.concatenate([states, model.model.embed_tokens(tokens)], axis=-1)
    return mx.maximum(pair @ draw_weight(pair.shape[-1]), 0.0)


@functools.cache
def draw_weight(width: int) -> mx.array:
    """The random weight of the first layer: [width, features]."""
    weight = mx.random.normal((width, FEATURES), key=mx.random.key(0))
    mx.eval(weight)
    return weight


def fit_head(model: nn.Module, texts: Sequence[list[int]]) -> mx.array:
    """The weight of the second layer that is right for most places of these texts."""
    inputs, outputs = [], []
    for text in texts:
        states = model.model(mx.array([text]))[0]
        inputs.append(np.array(make_features(model, states[:-1], mx.array(text[1:]))))
        outputs.append(np.array(states[1:]))
    known, wanted = np.concatenate(inputs, dtype=np.float64), np.concatenate(outputs)
    squares = known.T @ known
    # Least squares, of which the singular values would take many times as long.
    squares += np.eye(len(squares)) * np.trace(squares) * RIDGE
    return mx.array(np.linalg.solve(squares, known.T @ wanted).astype(np.float32))


def make_engine(model: nn.Module, head: Head | None) -> Engine:
    return Engine(
        model,
        max_running=8,
        prefill=PrefillLimits(max_tokens=32),
        prompt_cache=PrefixCache(1 << 30),
        speculation=Speculation(FreePlaces(), head) if head is not None else None,
    )


@pytest.fixture(scope="module")
def expected(llama_path: Path) -> dict[int, Answer]:
    """The answers of the rows without drafts."""
    return answer_all(make_engine(load_model(llama_path)[0], None), llama_path, range(ROWS))


@pytest.mark.parametrize("seed", range(2))
def test_a_head_drafts_from_the_states_of_rows_that_join_and_leave_and_changes_no_token(
    llama_path: Path, expected: dict[int, Answer], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_positions, "MAX_WASTED_PLACES", 6 + seed)
    model, _ = load_model(llama_path)
    rng = random.Random(seed)
    texts = [[*prompt_of(llama_path, id), *expected[id].tokens] for id in range(ROWS)]
    head = Head(model, fit_head(model, texts))
    engine = make_engine(model, head)
    # Some rows have drafts of both kinds, so that several places of a pass stay.
    shares = Shares(predicted=0.3, leaves=0.03)
    join_and_leave(engine, llama_path, expected, rng, shares, head)
    assert len(head) == 0
    assert head.wrong_states == 0
    assert engine.speculation is not None
    [counts] = [each for each in engine.speculation.take_counts() if each.origin == "model"]
    assert counts.accepted > 100
    assert counts.rejected > 0


class BrokenHead(Head):
    """A head that fails when it has followed some passes."""

    def follow(self, states: mx.array, kept: Sequence[KeptPlaces]) -> None:
        if self.passes > 12:
            raise TypeError("broken")
        super().follow(states, kept)


def test_rows_go_on_without_a_head_that_fails(
    llama_path: Path, expected: dict[int, Answer]
) -> None:
    model, _ = load_model(llama_path)
    head = BrokenHead(model, mx.zeros((FEATURES, model.args.hidden_size)))
    engine = make_engine(model, head)
    answers = answer_all(engine, llama_path, range(4))
    for id in range(4):
        assert_equal(answers[id], expected[id])
    # It computes no more passes once it has failed.
    assert head.passes == 13
