"""Bias, penalties and withheld ends, by their formulas."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Sampling
from worker.engine.logits_processors import LogitsProcessors, make_logits_processors
from worker.engine.sampler import Row, make_row, process_logits

LOGITS = [2.0, -1.0, 0.5, 3.0, 0.0, -2.5]
TOKENS = st.integers(0, len(LOGITS) - 1)
PENALTIES = st.floats(-2, 2, width=16)


def adjusted(row: Row) -> list[float]:
    values: list[list[float]] = process_logits(mx.array([LOGITS]), [row]).tolist()  # type: ignore[assignment]
    return values[0]


@given(
    st.lists(TOKENS, max_size=8),
    st.lists(TOKENS, max_size=8),
    PENALTIES,
    PENALTIES,
    st.floats(0.5, 2, width=16),
    st.dictionaries(TOKENS, st.floats(-100, 100, width=16)),
)
def test_each_logit_is_what_the_formulas_say(
    prompt: list[int],
    answer: list[int],
    presence: float,
    frequency: float,
    repetition: float,
    bias: dict[int, float],
) -> None:
    sampling = Sampling(
        0,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
        logit_bias=bias,
    )
    expected = []
    for token, value in enumerate(LOGITS):
        if token in prompt or token in answer:
            value = value / repetition if value > 0 else value * repetition
        count = answer.count(token)
        value += bias.get(token, 0.0) - presence * (count > 0) - frequency * count
        expected.append(value)
    row = make_row(sampling, prompt=prompt, resume=answer)
    assert adjusted(row) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_ends_are_withheld_until_the_answer_has_its_least_tokens() -> None:
    sampling = Sampling(0, min_tokens=2, stop_tokens=[3])
    before, after = (make_row(sampling, {0}, resume=[1] * drawn) for drawn in (1, 2))
    low = [token for token, value in enumerate(adjusted(before)) if value < -1e8]
    assert low == [0, 3]
    assert adjusted(after) == LOGITS


def test_a_withheld_end_is_drawn_where_nothing_else_may_be() -> None:
    row = make_row(Sampling(0, min_tokens=2), {0})
    assert adjusted(row)[0] > float("-inf")


def test_a_models_own_ends_do_not_end_a_row_that_ignores_them() -> None:
    assert make_row(Sampling(0), {4}).stop_token_ids == {4}
    assert make_row(Sampling(0, stop_tokens=[5]), {4}).stop_token_ids == {4, 5}
    assert make_row(Sampling(0, stop_tokens=[5], ignore_eos=True), {4}).stop_token_ids == {5}


def test_a_row_without_such_parameters_costs_nothing() -> None:
    assert make_logits_processors(Sampling(0, 0.7, top_p=0.5), {1}, [1, 2]) is None
    logits = mx.array([LOGITS])
    assert process_logits(logits, [make_row(Sampling(0))]) is logits


def test_only_penalties_follow_history() -> None:
    def follows(sampling: Sampling) -> bool:
        return make_row(sampling).follows_history

    assert follows(Sampling(0, presence_penalty=0.1))
    assert not follows(Sampling(0, logit_bias={1: 1.0}, min_tokens=5))


def test_a_table_grows_with_the_tokens_seen() -> None:
    adjustment = LogitsProcessors(Sampling(0, presence_penalty=1.0), (), ())
    for token in range(1000):
        adjustment.accept(token)
    ids, scales, offsets = adjustment.table(1000)
    assert ids.tolist() == list(range(1000))
    assert set(scales.tolist()) == {1.0}
    assert set(offsets.tolist()) == {-1.0}
