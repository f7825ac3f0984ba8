"""A lazy computation in parts: the states behind each layer of a model, one after the other.

MLX computes an array with all that it is made of. So the states behind a layer are a part: once
they are computed, those behind the next layer take one layer's time. With a bound of the work of
a part, what takes longer is computed in slices of tokens (`token_slices.py`).

mlx (0.32.4) has no hooks, so calls are recorded while the computation is set up: those of the
classes of layers, of linear layers, and of MLX's attention. Remove this when there are hooks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from worker.embedding_batches.token_slices import TokenSlices, is_states
from worker.memory.budget import weight_bytes_of

Call = Callable[..., Any]
LINEAR = (nn.Linear, nn.QuantizedLinear)


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a model: the modules in its lists of this name, and their largest parts.

    The parts of a layer are attention and what follows it, where these are modules of modules.
    """

    layers: list[nn.Module]
    parts: list[nn.Module]

    @classmethod
    def of(cls, modules: nn.Module) -> Layers:
        """Those of a model."""
        lists = (getattr(module, "layers", None) for _, module in modules.named_modules())
        layers = [layer for each in lists if isinstance(each, list) for layer in each]
        inner = [part for layer in layers for part in layer.children().values()]
        return cls(layers, [part for part in inner if has_modules(part)])

    @property
    def weight_bytes(self) -> int:
        """The size of their weights: the work of a token."""
        return sum(map(weight_bytes_of, self.layers))


def has_modules(part: object) -> bool:
    """Whether a part of a layer is a module that has modules."""
    return isinstance(part, nn.Module) and bool(part.children())


def in_parts(
    layers: Layers, compute: Callable[[], mx.array], *, part_tokens: float | None = None
) -> deque[mx.array]:
    """The states behind each layer that `compute` calls, then its result; nothing is computed.

    With `part_tokens` slices come between, so that none has more work than so many tokens have
    in all layers.
    """
    work_bytes = None if part_tokens is None else part_tokens * layers.weight_bytes
    recorder = Recorder(layers, work_bytes)
    with recorder.recording():
        result = compute()
    return deque([*recorder.states, result])


class Recorder:
    """Records what layers give, and slices what takes long: linear layers, and what follows
    attention in a layer."""

    def __init__(self, layers: Layers, work_bytes: float | None) -> None:
        self.states: list[mx.array] = []
        self._slices = None if work_bytes is None else TokenSlices(work_bytes, self.states)
        self._in_slice = False
        kinds = {type(layer) for layer in layers.layers}
        parts = {type(part) for part in layers.parts} - kinds
        self._calls: dict[Any, Call] = {kind: self._record(kind.__call__) for kind in kinds}
        self._calls |= {kind: self._record(self._slice(kind.__call__)) for kind in parts}
        if self._slices is not None:
            others = set(LINEAR) - self._calls.keys()
            self._calls |= {kind: self._slice(kind.__call__) for kind in others}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the calls within the block."""
        with ExitStack() as stack:
            for kind, call in self._calls.items():
                stack.enter_context(replaced(kind, "__call__", call))
            if self._slices is not None:
                attend = mx.fast.scaled_dot_product_attention
                sliced = partial(self._attend, self._slices, attend)
                stack.enter_context(replaced(mx.fast, "scaled_dot_product_attention", sliced))
            yield

    def _record(self, call: Call) -> Call:
        def recorded(layer: nn.Module, *arguments: Any, **options: Any) -> Any:
            output = call(layer, *arguments, **options)
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, mx.array) and not self._in_slice:
                self.states.append(first)
            return output

        return recorded

    def _slice(self, call: Call) -> Call:
        """A call, slice by slice where it gets states alone; within a slice nothing is sliced."""

        def sliced(module: nn.Module, *arguments: Any, **options: Any) -> Any:
            alone = len(arguments) == 1 and not options and is_states(arguments[0])
            if self._slices is None or self._in_slice or not alone:
                return call(module, *arguments, **options)
            self._in_slice = True
            try:
                return self._slices.call(module, arguments[0], call)
            finally:
                self._in_slice = False

        return sliced

    def _attend(self, slices: TokenSlices, attend: Call, *arrays: mx.array, **options: Any) -> Any:
        if self._in_slice:
            return attend(*arrays, **options)
        return slices.attend(attend, *arrays, **options)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute within the block; one that is inherited is no own one afterwards."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
