"""The memory of a slice's attention scores, where a model's attention writes them out.

A fused kernel keeps the scores on the chip. Without one, a layer writes rows x heads x
tokens x context scores before it sums them up. MLX (0.32.4) has fused kernels for prefill on
Metal only, for some head dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from worker.memory.kv_cost import LONG_TOKENS, KVCost, run_lazily

FUSED_HEAD_DIMS = frozenset({64, 80, 128})


@dataclass(frozen=True, slots=True)
class AttentionCost:
    """The scores of the layer that writes the most of them.

    `score_bytes` are those of all heads for one token and one key, 0 if none are written.
    `window_tokens` are the keys that are kept besides those of the slice, 0 for all.
    """

    score_bytes: int = 0
    window_tokens: int = 0

    def slice_bytes(self, rows: int, tokens: int, context: int) -> int:
        """The scores of `rows` rows of `tokens` tokens each, behind `context` tokens."""
        return rows * self.score_bytes * tokens * (self._kept(context) + tokens)

    def tokens_within(self, free_bytes: int, rows: int, context: int) -> int | None:
        """The tokens of each row whose scores fit `free_bytes`; None without a bound."""
        if not (self.score_bytes and free_bytes):
            return None
        kept, scores = self._kept(context), free_bytes // (rows * self.score_bytes)
        # tokens * (kept + tokens) <= scores
        return (math.isqrt(kept * kept + 4 * scores) - kept) // 2

    def _kept(self, context: int) -> int:
        return min(context, self.window_tokens) if self.window_tokens else context


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of MLX's attention: its query heads, and whether it writes the scores."""

    heads: int
    score_bytes: int
    is_fused: bool


def probe_attention(model: nn.Module, kv_cost: KVCost) -> AttentionCost:
    """Measure the attention of a model by a lazy pass, which computes nothing."""
    with recorded_attention() as calls:
        run_lazily(model, LONG_TOKENS)
    written = [call.heads * call.score_bytes for call in calls if not call.is_fused]
    if not calls and kv_cost.grows:
        # Its attention is written out in the model's own code.
        written = [configured_heads(model) * mx.float32.size]
    return AttentionCost(max(written, default=0), kv_cost.window_tokens)


@contextmanager
def recorded_attention() -> Iterator[list[AttentionCall]]:
    """Record the calls of MLX's attention within the block.

    mlx-lm (0.32.2) has no hook for this, so MLX's function is replaced. Remove this when
    models describe their attention.
    """
    calls: list[AttentionCall] = []
    attend = mx.fast.scaled_dot_product_attention

    def record(queries: mx.array, keys: mx.array, values: mx.array, **options: Any) -> mx.array:
        heads = queries.shape[1]
        is_fused = can_fuse(queries, values, options.get("mask"))
        calls.append(AttentionCall(heads, queries.dtype.size, is_fused))
        return attend(queries, keys, values, **options)

    mx.fast.scaled_dot_product_attention = record  # type: ignore[assignment]
    try:
        yield calls
    finally:
        mx.fast.scaled_dot_product_attention = attend


def can_fuse(queries: mx.array, values: mx.array, mask: mx.array | str | None) -> bool:
    """Whether MLX has a fused kernel for a slice with these shapes."""
    heads, head_dim = queries.shape[1], queries.shape[-1]
    # A mask with a value for each head is as large as the scores.
    if isinstance(mask, mx.array) and mask.ndim == queries.ndim and mask.shape[1] == heads > 1:
        return False
    on_metal = mx.metal.is_available() and mx.default_device() == mx.Device(mx.gpu)
    return on_metal and head_dim == values.shape[-1] and head_dim in FUSED_HEAD_DIMS


def configured_heads(model: nn.Module) -> int:
    """The query heads that the model's configuration names; 1 if it names none."""
    arguments = getattr(model, "args", None)
    text = getattr(arguments, "text_config", None)
    nested = text.get("num_attention_heads") if isinstance(text, dict) else None
    return int(getattr(arguments, "num_attention_heads", None) or nested or 1)
