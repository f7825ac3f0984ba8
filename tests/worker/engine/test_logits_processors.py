"""Bias, penalties and suppressed stop tokens follow their formulas."""

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


def process(row: Row) -> list[float]:
    values: list[list[float]] = process_logits(mx.array([LOGITS]), [row]).tolist()  # type: ignore[assignment]
    return values[0]


@given(
    st.lists(TOKENS, max_size=8),
    st.lists(TOKENS, max_size=8),
    PENALTIES,
    PENALTIES,
    st.floats(0.5, 2, width=16),
    st.integers(0, 10),
    st.dictionaries(TOKENS, st.floats(-100, 100, width=16)),
)
def test_each_logit_follows_the_formulas(
    prompt: list[int],
    answer: list[int],
    presence: float,
    frequency: float,
    repetition: float,
    context: int,
    bias: dict[int, float],
) -> None:
    sampling = Sampling(
        0,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
        repetition_context=context,
        logit_bias=bias,
    )
    expected = []
    recent = (prompt + answer)[-context:]
    for token, value in enumerate(LOGITS):
        if token in recent:
            value = value / repetition if value > 0 else value * repetition
        count = answer.count(token)
        value += bias.get(token, 0.0) - presence * (count > 0) - frequency * count
        expected.append(value)
    row = make_row(sampling, prompt=prompt, resume=answer)
    assert process(row) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_stop_tokens_are_suppressed_until_the_answer_has_min_tokens() -> None:
    sampling = Sampling(0, min_tokens=2, stop_tokens=[3])
    before, after = (make_row(sampling, {0}, resume=[1] * drawn) for drawn in (1, 2))
    low = [token for token, value in enumerate(process(before)) if value < -1e8]
    assert low == [0, 3]
    assert process(after) == LOGITS


def test_a_suppressed_stop_token_can_be_drawn_where_no_other_token_is_allowed() -> None:
    row = make_row(Sampling(0, min_tokens=2), {0})
    assert process(row)[0] > float("-inf")


def test_the_models_stop_tokens_do_not_end_a_row_that_ignores_them() -> None:
    assert make_row(Sampling(0), {4}).stop_token_ids == {4}
    assert make_row(Sampling(0, stop_tokens=[5]), {4}).stop_token_ids == {4, 5}
    assert make_row(Sampling(0, stop_tokens=[5], ignore_eos=True), {4}).stop_token_ids == {5}


def test_a_row_without_such_parameters_has_no_processors() -> None:
    assert make_logits_processors(Sampling(0, 0.7, top_p=0.5), {1}, [1, 2]) is None
    logits = mx.array([LOGITS])
    assert process_logits(logits, [make_row(Sampling(0))]) is logits


def test_only_penalties_depend_on_history() -> None:
    def depends(sampling: Sampling) -> bool:
        return make_row(sampling).depends_on_history

    assert depends(Sampling(0, presence_penalty=0.1))
    assert not depends(Sampling(0, logit_bias={1: 1.0}, min_tokens=5))


def test_a_table_grows_with_the_tokens_of_the_answer() -> None:
    processors = LogitsProcessors(Sampling(0, presence_penalty=1.0), (), ())
    for token in range(1000):
        processors.accept(token)
    ids, scales, offsets = processors.table(1000)
    assert ids.tolist() == list(range(1000))
    assert set(scales.tolist()) == {1.0}
    assert set(offsets.tolist()) == {-1.0}
