"""A draw depends only on its row: logits, parameters, seed and position."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from protocol.messages import Sampling
from worker.engine.bitmask import BitMask
from worker.engine.sampler import (
    Row,
    draw_key,
    draw_tokens,
    gumbel_noise,
    make_row,
    min_kept_logits,
)

VOCABULARY = 50
SETTINGS = [
    Sampling(seed=1, temperature=0.0),
    Sampling(seed=2, temperature=1.0),
    Sampling(seed=3, temperature=0.7, top_p=0.5),
    Sampling(seed=4, temperature=1.5, top_k=5),
    Sampling(seed=5, temperature=1.0, min_p=0.2),
    Sampling(seed=6, temperature=1.0, top_p=0.9, top_k=10, min_p=0.01),
    Sampling(seed=7, temperature=1.0),
    Sampling(seed=8, temperature=0.0, frequency_penalty=1.5),
    Sampling(seed=9, temperature=1.0, presence_penalty=2.0, top_k=20),
    Sampling(seed=10, temperature=0.0, repetition_penalty=1.3),
    Sampling(seed=11, temperature=0.8, frequency_penalty=-0.5, repetition_penalty=0.9),
    Sampling(seed=12, temperature=1.0, logit_bias={3: 5.0, 4: -100.0}),
    Sampling(seed=13, temperature=1.0, min_tokens=6),
    Sampling(seed=14, temperature=0.0, presence_penalty=1.0, logit_bias={9: 3.0}, min_tokens=3),
]
STOP_TOKENS = frozenset({0, 1, 2, 5})
PROMPT = [7, 8, 8, 30]
DRAWS = 20


@pytest.fixture(scope="module")
def logits() -> mx.array:
    return mx.random.normal((len(SETTINGS), VOCABULARY), key=mx.random.key(0)) * 3


def make_rows() -> list[Row]:
    return [make_row(sampling, STOP_TOKENS, prompt=PROMPT) for sampling in SETTINGS]


def draw_on(logits: mx.array, rows: list[Row], count: int) -> list[list[int]]:
    """`count` draws from the same logits; each row accepts its tokens."""
    drawn = []
    for _ in range(count):
        drawn.append(ids(draw_tokens(logits, rows)))
        for row, token in zip(rows, drawn[-1], strict=True):
            row.accept(token)
    return drawn


def ids(tokens: mx.array) -> list[int]:
    listed: list[int] = tokens.tolist()  # type: ignore[assignment]
    return listed


def test_a_row_draws_the_same_token_alone_and_in_a_mixed_batch(logits: mx.array) -> None:
    together = draw_on(logits, make_rows(), DRAWS)
    for index, sampling in enumerate(SETTINGS):
        row = make_row(sampling, STOP_TOKENS, prompt=PROMPT)
        alone = draw_on(logits[index : index + 1], [row], DRAWS)
        assert alone == [[tokens[index]] for tokens in together]


def test_a_row_resumed_at_any_token_draws_what_it_would_have_drawn(
    logits: mx.array,
) -> None:
    drawn = draw_on(logits, make_rows(), DRAWS)
    for cut in (1, 5, 9):
        rows = [
            make_row(
                sampling,
                STOP_TOKENS,
                prompt=PROMPT,
                resume=[tokens[index] for tokens in drawn[:cut]],
            )
            for index, sampling in enumerate(SETTINGS)
        ]
        assert draw_on(logits, rows, DRAWS - cut) == drawn[cut:]


def test_drawing_does_not_change_the_logits(logits: mx.array) -> None:
    before = mx.array(logits)
    draw_on(logits, make_rows(), 2)
    assert mx.array_equal(before, logits).item()


def test_temperature_zero_draws_the_most_likely_token_with_any_filters(logits: mx.array) -> None:
    rows = [make_row(Sampling(9, 0.0, top_p=0.1, top_k=3)) for _ in SETTINGS]
    assert ids(draw_tokens(logits, rows)) == ids(mx.argmax(logits, axis=-1))


def test_draws_follow_the_distribution() -> None:
    probabilities = mx.array([[0.5, 0.3, 0.2, 0.0]])
    rows = [make_row(Sampling(seed, 1.0)) for seed in range(4000)]
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
def test_a_filter_keeps_only_its_tokens(sampling: Sampling, allowed: set[int]) -> None:
    logits = mx.broadcast_to(mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]])), (300, 4))
    rows = [make_row(sampling, resume=[0] * position) for position in range(300)]
    assert set(ids(draw_tokens(logits, rows))) == allowed


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**24))
def test_a_key_is_two_words_of_32_bits(seed: int, position: int) -> None:
    assert all(0 <= word < 2**32 for word in draw_key(seed, position))


def test_keys_of_neighbouring_seeds_and_positions_all_differ() -> None:
    keys = {draw_key(seed, position) for seed in range(100) for position in range(100)}
    assert len(keys) == 10_000


def test_logits_that_differ_in_their_last_bits_give_the_same_draws() -> None:
    count = 4000
    flat = mx.random.normal((count, 1000), key=mx.random.key(1)) * 2
    perturbed = flat + mx.random.normal(flat.shape, key=mx.random.key(2)) * 1e-4
    draws = [
        ids(draw_tokens(logits, [make_row(Sampling(seed, 1.0)) for seed in range(count)]))
        for logits in (flat, perturbed)
    ]
    # Sampling by the cumulative distribution changes 15 to 18 of them.
    assert sum(one != other for one, other in zip(*draws, strict=True)) <= 1


def test_noise_depends_only_on_the_key_and_has_the_gumbel_distribution() -> None:
    keys = mx.array([draw_key(seed, 3) for seed in range(64)], mx.uint32)
    together = gumbel_noise(keys, 500)
    alone = mx.concatenate([gumbel_noise(keys[row : row + 1], 500) for row in range(64)])
    assert mx.array_equal(together, alone).item()
    values = np.array(together).reshape(-1)
    # The mean is Euler's constant, the variance a sixth of pi squared.
    assert values.mean() == pytest.approx(0.5772, abs=0.03)
    assert values.var() == pytest.approx(np.pi**2 / 6, abs=0.06)


@pytest.mark.parametrize(
    ("sampling", "theirs"),
    [
        (Sampling(0, min_p=0.05), lambda logits: apply_min_p(logits, 0.05)),
        (Sampling(0, min_p=0.5), lambda logits: apply_min_p(logits, 0.5)),
        (Sampling(0, top_k=7), lambda logits: apply_top_k(logits, 7)),
        (Sampling(0, top_p=0.3), lambda logits: apply_top_p(logits, 0.3)),
        (Sampling(0, top_p=0.95), lambda logits: apply_top_p(logits, 0.95)),
    ],
)
def test_a_filter_keeps_the_tokens_that_mlx_lms_filter_keeps(
    logits: mx.array, sampling: Sampling, theirs: Callable[[mx.array], mx.array]
) -> None:
    normalised = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    min_logits = min_kept_logits(logits, [sampling] * len(SETTINGS))
    assert min_logits is not None
    assert mx.array_equal(logits >= min_logits, theirs(normalised) > -mx.inf).item()


def test_only_the_tokens_of_a_constraint_are_drawn(logits: mx.array) -> None:
    rows = [make_row(sampling, constraint=Only({3, 40})) for sampling in SETTINGS[:4]]
    rows += make_rows()[4:]
    drawn = draw_on(logits, rows, DRAWS)
    assert {token for tokens in drawn for token in tokens[:4]} == {3, 40}
    assert [tokens[4:] for tokens in drawn] == [t[4:] for t in draw_on(logits, make_rows(), DRAWS)]


def test_the_error_of_a_constraint_is_set_on_its_row_only(logits: mx.array) -> None:
    rows = make_rows()
    rows[0] = make_row(SETTINGS[0], constraint=Only(set()))
    draw_on(logits, rows, 2)
    assert [row.fault for row in rows] == ["nothing is allowed", *[None] * (len(rows) - 1)]


class Only:
    """Allows only these tokens; without any it fails."""

    complete = False

    def __init__(self, allowed: set[int]) -> None:
        self._allowed = allowed

    def accept(self, token: int) -> None:
        assert token in self._allowed

    def mask(self) -> BitMask:
        if not self._allowed:
            raise ValueError("nothing is allowed")
        words = np.zeros(VOCABULARY // 32 + 1, np.uint32)
        for token in self._allowed:
            words[token // 32] |= 1 << token % 32
        return words.view(np.int32)
