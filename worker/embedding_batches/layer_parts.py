"""A lazy computation in parts: the states behind each layer of a model, one after the other.

MLX computes an array with all that it is made of. So the states behind a layer are a part: once
they are computed, those behind the next layer take one layer's time. mlx (0.32.4) has no hooks,
so the calls of the layers are recorded while the computation is set up. Remove this when there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

Call = Callable[..., Any]


def list_layers(modules: nn.Module) -> list[nn.Module]:
    """The layers of a model, the modules in its lists of this name, and their largest parts.

    The parts of a layer are attention and what follows it, where these are modules of modules.
    """
    lists = (getattr(module, "layers", None) for _, module in modules.named_modules())
    layers = [layer for each in lists if isinstance(each, list) for layer in each]
    inner = [part for layer in layers for part in layer.children().values()]
    return [*layers, *(part for part in inner if has_modules(part))]


def has_modules(part: object) -> bool:
    """Whether a part of a layer is a module that has modules."""
    return isinstance(part, nn.Module) and bool(part.children())


def in_parts(layers: Sequence[nn.Module], compute: Callable[[], mx.array]) -> deque[mx.array]:
    """The states behind each layer that `compute` calls, then its result; nothing is computed."""
    with recorded_states(layers) as states:
        result = compute()
    return deque([*states, result])


@contextmanager
def recorded_states(layers: Sequence[nn.Module]) -> Iterator[list[mx.array]]:
    """Record what these layers give within the block."""
    states: list[mx.array] = []
    kinds = {type(layer) for layer in layers}
    calls: dict[Any, Call] = {kind: kind.__call__ for kind in kinds}

    def record(call: Call) -> Call:
        def recorded(layer: nn.Module, *arguments: Any, **options: Any) -> Any:
            output = call(layer, *arguments, **options)
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, mx.array):
                states.append(first)
            return output

        return recorded

    for kind, call in calls.items():
        kind.__call__ = record(call)
    try:
        yield states
    finally:
        for kind, call in calls.items():
            kind.__call__ = call
