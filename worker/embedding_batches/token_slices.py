"""The long steps of a computation in slices of tokens, each of which is a part of its own.

A linear layer gives a token what it makes of that token alone, and so does a module of a layer
that is called with states alone. Attention gives a query what it makes of all keys, but of no other
query. So these may be computed slice by slice. A slice has a bounded work: bytes of weights,
each as often as a token is multiplied with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from worker.memory.budget import weight_bytes_of

# Shorter slices would take longer to begin than to compute.
MIN_SLICE_TOKENS = 8
# A score takes the work of two products of a head's values, and about as much for its exponent.
SCORE_PRODUCTS = 4
CAUSAL = "causal"

Attend = Callable[..., mx.array]


class TokenSlices:
    """Calls steps slice by slice, each of `work_bytes` at most; `parts` gets their outputs."""

    def __init__(self, work_bytes: float, parts: list[mx.array]) -> None:
        self._work_bytes = work_bytes
        self._parts = parts

    def call(self, module: nn.Module, states: mx.array, call: Callable[..., Any]) -> Any:
        """What `call` gives of a module and states [rows, length, width]."""
        rows, length, width = states.shape
        tokens = self._tokens_of(weight_bytes_of(module))
        if rows * length <= tokens:
            return call(module, states)
        flat = states.reshape(1, rows * length, width)
        outputs = [call(module, each) for each in split(flat, tokens, axis=1)]
        if not all(is_states(output) for output in outputs):
            return call(module, states)
        self._parts += outputs
        return mx.concatenate(outputs, axis=1).reshape(rows, length, -1)

    def attend(
        self,
        attend: Attend,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        *,
        mask: mx.array | str | None = None,
        **options: Any,
    ) -> mx.array:
        """What `attend`, MLX's attention, gives of queries [rows, heads, length, size]."""
        rows, heads, length, size = queries.shape
        seen = keys.shape[2]
        work = SCORE_PRODUCTS * rows * heads * seen * size * queries.dtype.size
        count = max(self._tokens_of(work), 1)
        is_causal = isinstance(mask, str)
        if length <= count or (is_causal and (mask != CAUSAL or length != seen)):
            return attend(queries, keys, values, mask=mask, **options)
        outputs = []
        for start in range(0, length, count):
            end = min(start + count, length)
            # The last query sees the last key, by MLX's definition.
            last = end if is_causal else seen
            some = (queries[:, :, start:end], keys[:, :, :last], values[:, :, :last])
            outputs.append(attend(*some, mask=rows_of(mask, start, end), **options))
        self._parts += outputs
        return mx.concatenate(outputs, axis=2)

    def _tokens_of(self, work_bytes: float) -> int:
        """How many tokens a slice has if one takes this work."""
        return max(int(self._work_bytes / max(work_bytes, 1)), MIN_SLICE_TOKENS)


def is_states(value: object) -> bool:
    """Whether a value is an array [rows, length, width]."""
    return isinstance(value, mx.array) and value.ndim == 3


def split(states: mx.array, size: int, *, axis: int) -> list[mx.array]:
    """Arrays of at most `size` along an axis."""
    return list(mx.split(states, list(range(size, states.shape[axis], size)), axis=axis))


def rows_of(mask: mx.array | str | None, start: int, end: int) -> mx.array | str | None:
    """The part of a mask [..., queries, keys] for some queries."""
    if isinstance(mask, mx.array) and mask.ndim > 1 and mask.shape[-2] > 1:
        return mask[..., start:end, :]
    return mask
