"""A mask allows or forbids each token by its bit, independently of the other rows."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.bitmask import BitMask, mask_logits

FORBIDDEN = -np.inf
SIZES = [1, 31, 32, 33, 100]


def draw_masks(share: float, rows: int, words: int, seed: int) -> list[BitMask | None]:
    """Random masks for about this share of the rows, some shorter or longer than `words`."""
    draw = np.random.default_rng(seed)
    return [
        draw.integers(-(2**31), 2**31, draw.integers(words + 2)).astype(np.int32)
        if draw.random() < share
        else None
        for _ in range(rows)
    ]


def as_bits(logits: mx.array) -> list[list[int]]:
    """The floats' bits, so that 0.0 and -0.0 differ."""
    bits: list[list[int]] = logits.view(
        mx.uint32 if logits.dtype == mx.float32 else mx.uint16
    ).tolist()  # type: ignore[assignment]
    return bits


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@given(
    vocabulary=st.sampled_from(SIZES),
    rows=st.integers(1, 20),
    share=st.sampled_from([0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_an_allowed_token_keeps_its_logit_bit_for_bit_and_another_gets_minus_infinity(
    dtype: mx.Dtype, vocabulary: int, rows: int, share: float, seed: int
) -> None:
    masks = draw_masks(share, rows, -(-vocabulary // 32), seed)
    values = np.random.default_rng(seed).normal(0.0, 9.0, (rows, vocabulary)).astype(np.float32)
    values[values < -9.0] = -0.0
    expected = values.copy()
    for row, mask in zip(expected, masks, strict=True):
        if mask is not None:
            bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocabulary]
            row[: len(bits)][bits == 0] = FORBIDDEN
            row[len(bits) :] = FORBIDDEN
    masked = mask_logits(mx.array(values).astype(dtype), masks)
    assert masked.dtype == dtype
    assert as_bits(masked) == as_bits(mx.array(expected).astype(dtype))


def test_logits_without_a_mask_are_returned_unchanged() -> None:
    logits = mx.zeros((2, 40))
    assert mask_logits(logits, [None, None]) is logits
