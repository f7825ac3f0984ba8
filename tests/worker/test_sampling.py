"""A draw depends on its row alone: logits, parameters, seed and position."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.sample_utils import apply_min_p

from protocol.messages import Sampling
from worker.sampling import Row, Samplers, draw_tokens, drop_below, uniform

VOCABULARY = 50
SETTINGS = [
    Sampling(seed=1, temperature=0.0),
    Sampling(seed=2, temperature=1.0),
    Sampling(seed=3, temperature=0.7, top_p=0.5),
    Sampling(seed=4, temperature=1.5, top_k=5),
    Sampling(seed=5, temperature=1.0, min_p=0.2),
    Sampling(seed=6, temperature=1.0, top_p=0.9, top_k=10, min_p=0.01),
    Sampling(seed=7, temperature=1.0),
    Sampling(seed=8, temperature=0.0),
]


@pytest.fixture(scope="module")
def logits() -> mx.array:
    return mx.random.normal((len(SETTINGS), VOCABULARY), key=mx.random.key(0)) * 3


def make_rows(samplers: Samplers, position: int = 0) -> list[Row]:
    return [samplers.row(sampling, position) for sampling in SETTINGS]


def ids(tokens: mx.array) -> list[int]:
    listed: list[int] = tokens.tolist()  # type: ignore[assignment]
    return listed


def test_a_row_draws_the_same_token_alone_and_in_a_mixed_batch(logits: mx.array) -> None:
    samplers = Samplers(VOCABULARY)
    together = [ids(draw_tokens(logits, rows)) for rows in [make_rows(samplers)] for _ in range(20)]
    for place, sampling in enumerate(SETTINGS):
        row = samplers.row(sampling, 0)
        alone = [ids(draw_tokens(logits[place : place + 1], [row]))[0] for _ in range(20)]
        assert alone == [tokens[place] for tokens in together]


def test_a_row_that_begins_at_a_position_goes_on_as_if_it_had_drawn_the_ones_before(
    logits: mx.array,
) -> None:
    samplers = Samplers(VOCABULARY)
    rows = make_rows(samplers)
    drawn = [ids(draw_tokens(logits, rows)) for _ in range(10)]
    assert ids(draw_tokens(logits, make_rows(samplers, position=9))) == drawn[9]


def test_temperature_zero_is_the_likeliest_token_whatever_else_is_asked(logits: mx.array) -> None:
    samplers = Samplers(VOCABULARY)
    rows = [samplers.row(Sampling(9, 0.0, top_p=0.1, top_k=3), 0) for _ in SETTINGS]
    assert ids(draw_tokens(logits, rows)) == ids(mx.argmax(logits, axis=-1))


def test_rows_with_the_same_parameters_share_a_sampler_whatever_their_seeds() -> None:
    samplers = Samplers(VOCABULARY)
    first, second = samplers.row(Sampling(1, 0.5), 0), samplers.row(Sampling(2, 0.5), 3)
    assert first.sampler is second.sampler
    assert samplers.row(Sampling(1, 0.6), 0).sampler is not first.sampler


def test_draws_follow_the_distribution() -> None:
    probabilities = mx.array([[0.5, 0.3, 0.2, 0.0]])
    rows = [Samplers(4).row(Sampling(seed, 1.0), 0) for seed in range(4000)]
    drawn = ids(draw_tokens(mx.broadcast_to(mx.log(probabilities), (4000, 4)), rows))
    shares = [drawn.count(token) / len(drawn) for token in range(4)]
    assert shares[:3] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    assert shares[3] == 0


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(0, 1.0, top_k=2), {0, 1}),
        (Sampling(0, 1.0, top_p=0.6), {0, 1}),
        (Sampling(0, 1.0, min_p=0.5), {0, 1}),
        (Sampling(0, 1e-9), {0}),
    ],
)
def test_a_filter_leaves_only_the_tokens_it_names(sampling: Sampling, allowed: set[int]) -> None:
    logits = mx.broadcast_to(mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]])), (300, 4))
    samplers = Samplers(4)
    rows = [samplers.row(sampling, position) for position in range(300)]
    assert set(ids(draw_tokens(logits, rows))) == allowed


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**24))
def test_a_uniform_is_above_zero_and_at_most_one(seed: int, position: int) -> None:
    assert 0 < uniform(seed, position) <= 1


def test_uniforms_of_neighbouring_seeds_and_positions_are_spread_evenly() -> None:
    values = [uniform(seed, position) for seed in range(100) for position in range(100)]
    tenths = [sum(n / 10 < value <= (n + 1) / 10 for value in values) for n in range(10)]
    assert all(900 < count < 1100 for count in tenths)
    assert len(set(values)) > 9_900


def test_min_p_leaves_what_mlx_lms_own_filter_leaves(logits: mx.array) -> None:
    for min_p in (0.05, 0.5):
        ours, theirs = drop_below(logits, min_p), apply_min_p(logits, min_p)
        assert mx.array_equal(ours, theirs).item()
