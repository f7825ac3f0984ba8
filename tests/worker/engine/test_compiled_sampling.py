"""The compiled sampler draws what the sampler draws, and is used on Metal alone, where it is on."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Sampling
from worker.engine.batches.compiled_sampling import CompiledSampling, choose_sampling
from worker.engine.sampler import make_row, sample_tokens

VOCABULARY = 40
SAMPLINGS = st.builds(
    Sampling,
    seed=st.integers(0, 1 << 32),
    temperature=st.floats(0.01, 2.0),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 5, VOCABULARY, 1000]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
)


def as_it_is(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """In place of MLX's compiler, which a worker does not use on the CPU."""
    return function


@given(st.lists(SAMPLINGS, min_size=1, max_size=6))
def test_it_draws_what_the_sampler_draws(samplings: list[Sampling]) -> None:
    logits = mx.random.normal((len(samplings), VOCABULARY), key=mx.random.key(1)) * 3
    rows = [make_row(sampling) for sampling in samplings]
    compiled = CompiledSampling(as_it_is)
    assert compiled(logits, rows).tolist() == sample_tokens(logits, rows).tolist()


def test_each_combination_of_filters_is_compiled_once() -> None:
    compiled_functions = []

    def compile(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        compiled_functions.append(function)
        return function

    compiled = CompiledSampling(compile)
    logits = mx.zeros((1, VOCABULARY))
    for top_p in (0.5, 0.9, 1.0, 0.5):
        compiled(logits, [make_row(Sampling(1, top_p=top_p))])
    assert len(compiled_functions) == 2


@pytest.mark.parametrize(("on_metal", "setting"), [(True, False), (False, True), (False, False)])
def test_it_is_used_only_on_metal_and_where_it_is_on(
    on_metal: bool, setting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: on_metal)
    assert choose_sampling(setting) is sample_tokens


def test_it_is_used_on_metal_where_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    assert isinstance(choose_sampling(True), CompiledSampling)
