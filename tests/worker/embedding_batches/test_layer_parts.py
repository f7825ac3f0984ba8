"""A model's computation in parts gives what it gives at once."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from hypothesis import given
from hypothesis import strategies as st

from worker.embedding_batches.layer_parts import Layers, in_parts


class Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = mx.array(factor)

    def __call__(self, states: mx.array) -> tuple[mx.array, None]:
        return states * self.factor, None


class Encoder(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layers = [Layer(2.0), Layer(3.0), Layer(5.0)]

    def __call__(self, states: mx.array) -> mx.array:
        for layer in self.layers:
            states, _ = layer(states)
        return states + 1


def test_the_parts_are_the_states_behind_each_layer_and_the_result() -> None:
    encoder = Encoder()
    parts = in_parts(Layers.of(encoder), lambda: encoder(mx.array(1.0)))
    assert [part.item() for part in parts] == [2.0, 6.0, 30.0, 31.0]


class FeedForward(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)

    def __call__(self, states: mx.array) -> mx.array:
        narrowed: mx.array = self.narrow(mx.maximum(self.widen(states), 0))
        return narrowed


class Attention(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(8, 8)

    def __call__(self, states: mx.array, mask: Any) -> mx.array:
        heads = states.reshape(*states.shape[:2], 2, 4).transpose(0, 2, 1, 3)
        seen = mx.fast.scaled_dot_product_attention(heads, heads, heads, scale=0.5, mask=mask)
        output: mx.array = self.output(seen.transpose(0, 2, 1, 3).reshape(states.shape))
        return output


class MixingLayer(nn.Module):  # type: ignore[misc]
    """A layer that is called with states alone, and whose tokens see each other."""

    def __init__(self, mask: Any = None) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(), FeedForward()
        self._mask = mask

    def __call__(self, states: mx.array) -> mx.array:
        states = states + self.attention(states, self._mask)
        return states + self.feed_forward(states) + states.mean(axis=1, keepdims=True)


class MixingEncoder(nn.Module):  # type: ignore[misc]
    def __init__(self, mask: Any) -> None:
        super().__init__()
        self.layers = [MixingLayer(mask), MixingLayer(mask)]

    def __call__(self, states: mx.array) -> mx.array:
        for layer in self.layers:
            states = layer(states)
        return states


def masks_of(length: int) -> list[Any]:
    """None, MLX's causal one, one of keys, and one of queries and keys."""
    keys = mx.arange(length)[None, None, None] < length - 3
    pairs = mx.abs(mx.arange(length)[:, None] - mx.arange(length)[None]) < 5
    return [None, "causal", keys, pairs[None, None], mx.where(pairs, 0.0, -1e9)]


@given(st.integers(1, 3), st.integers(1, 60), st.integers(0, 4), st.floats(0, 50))
def test_slices_give_what_whole_steps_give(
    rows: int, length: int, mask: int, part_tokens: float
) -> None:
    encoder = MixingEncoder(masks_of(length)[mask])
    states = mx.random.normal((rows, length, 8), key=mx.random.key(length))
    layers = Layers.of(encoder)
    parts = in_parts(layers, lambda: encoder(states), part_tokens=part_tokens)
    assert mx.allclose(parts[-1], encoder(states), atol=1e-4, equal_nan=True)


def test_the_less_work_a_part_may_have_the_more_parts_there_are() -> None:
    encoder = MixingEncoder(None)
    layers = Layers.of(encoder)
    states = mx.zeros((1, 64, 8))
    counts = [
        len(in_parts(layers, lambda: encoder(states), part_tokens=tokens))
        for tokens in (None, 1e9, 10.0, 0.0)
    ]
    assert counts[0] == counts[1] < counts[2] < counts[3]


def test_attention_and_linear_layers_are_as_before_once_it_is_set_up() -> None:
    encoder = MixingEncoder(None)
    before = (mx.fast.scaled_dot_product_attention, nn.Linear.__call__, FeedForward.__call__)
    in_parts(Layers.of(encoder), lambda: encoder(mx.zeros((1, 9, 8))), part_tokens=0.0)
    after = (mx.fast.scaled_dot_product_attention, nn.Linear.__call__, FeedForward.__call__)
    assert after == before


def test_the_layers_are_recorded_while_the_computation_is_set_up_alone() -> None:
    encoder = Encoder()
    call = Layer.__call__
    in_parts(Layers.of(encoder), lambda: encoder(mx.array(1.0)))
    assert Layer.__call__ is call
