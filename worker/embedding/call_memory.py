"""The memory of a device call, which attention scores take the most of where they are written.

Without a fused kernel a layer writes rows x heads x length x length scores. MLX (0.32.4) has
fused kernels on Metal only, for some sizes of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from worker.embedding.encoders.modules import RowModules
from worker.embedding.model_folder import text_config
from worker.engine.attention_cost import FUSED_HEAD_DIMS

# How many arrays of each kind are held at the same time: measured, with room to spare.
SCORE_ARRAYS = 2
STATE_ARRAYS = 20
WIDE_ARRAYS = 4


@dataclass(frozen=True, slots=True)
class CallMemory:
    """What a call writes: `score_bytes` for each pair of tokens of a row, `token_bytes` for each
    token."""

    score_bytes: int
    token_bytes: int

    def call_bytes(self, rows: int, length: int) -> int:
        """The bytes of `rows` rows of `length` tokens."""
        return rows * (length * length * self.score_bytes + length * self.token_bytes)


def call_memory_of(modules: RowModules, config: Mapping[str, Any]) -> CallMemory:
    """The memory of a model's calls, by its sizes and the type of its weights."""
    sizes = text_config(config)
    hidden, heads = int(sizes["hidden_size"]), int(sizes.get("num_attention_heads") or 1)
    wide = int(sizes.get("intermediate_size") or 4 * hidden)
    head_dim = int(sizes.get("head_dim") or hidden // heads)
    value_bytes = value_bytes_of(modules)
    on_metal = mx.metal.is_available() and mx.default_device() == mx.Device(mx.gpu)
    is_fused = on_metal and head_dim in FUSED_HEAD_DIMS
    states = max(hidden, heads * head_dim)
    # The mask of a window has a byte for each pair, a bias one value for each head.
    mask_bytes = heads * value_bytes if sizes.get("model_type") == "mpnet" else 1
    written = 0 if is_fused else SCORE_ARRAYS * heads * value_bytes
    return CallMemory(
        score_bytes=written + mask_bytes,
        token_bytes=(STATE_ARRAYS * states + WIDE_ARRAYS * wide) * value_bytes,
    )


def value_bytes_of(modules: RowModules) -> int:
    """The size of a state's value: that of the largest floating weight."""
    arrays = (array for _, array in tree_flatten(modules.parameters()))
    sizes = [each.dtype.size for each in arrays if mx.issubdtype(each.dtype, mx.floating)]
    return max(sizes, default=mx.float32.size)
