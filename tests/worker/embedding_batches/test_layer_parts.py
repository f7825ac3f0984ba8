"""A model's computation in parts gives what it gives at once."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from worker.embedding_batches.layer_parts import in_parts, list_layers


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
    parts = in_parts(list_layers(encoder), lambda: encoder(mx.array(1.0)))
    assert [part.item() for part in parts] == [2.0, 6.0, 30.0, 31.0]


def test_the_layers_are_recorded_while_the_computation_is_set_up_alone() -> None:
    encoder = Encoder()
    call = Layer.__call__
    in_parts(list_layers(encoder), lambda: encoder(mx.array(1.0)))
    assert Layer.__call__ is call
