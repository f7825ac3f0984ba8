"""A rank's part of a model, and models that cannot be split."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlx.utils import tree_flatten

from worker.memory.budget import weight_bytes_of
from worker.models.weight_loader import build_modules
from worker.ranks.sharding import NotSplittable, build_part


class Group:
    """The size and the rank of a group that nothing is sent over."""

    def __init__(self, size: int, rank: int = 0) -> None:
        self._size, self._rank = size, rank

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return self._rank


def test_each_rank_has_its_part_of_the_heads(llama_path: Path) -> None:
    whole = build_modules(llama_path, trusted=False)
    parts = [build_part(llama_path, Group(2, rank), trusted=False) for rank in (0, 1)]  # type: ignore[arg-type]
    name = "model.layers.0.self_attn.q_proj.weight"
    rows = [dict(tree_flatten(model.parameters()))[name] for model in (whole, *parts)]
    half = rows[0].shape[0] // 2
    assert [part.tolist() for part in rows[1:]] == [
        rows[0][:half].tolist(),
        rows[0][half:].tolist(),
    ]
    assert all(weight_bytes_of(part) < weight_bytes_of(whole) for part in parts)


def test_a_model_is_refused_whose_heads_cannot_be_distributed(llama_path: Path) -> None:
    with pytest.raises(NotSplittable, match=r"num_attention_heads of 4 cannot be .* 3 ranks"):
        build_part(llama_path, Group(3), trusted=False)  # type: ignore[arg-type]


def test_a_model_is_refused_that_mlx_lm_cannot_split(gemma_path: Path) -> None:
    with pytest.raises(NotSplittable, match="no tensor-parallel form"):
        build_part(gemma_path, Group(2), trusted=False)  # type: ignore[arg-type]
