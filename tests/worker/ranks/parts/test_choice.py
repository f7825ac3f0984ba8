"""How a model is split: by heads where they can be divided, else by layers, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlx.utils import tree_flatten

from protocol.ranks import SplitSetting
from tests.models.architectures.making import build, make, write
from tests.models.architectures.scaling import deepen, divide_in_three
from tests.models.architectures.table import config_of
from tests.worker.ranks.parts.places import make_group
from worker.memory.budget import weight_bytes_of
from worker.models.weight_loader import build_modules
from worker.ranks.parts.choice import build_part, split_of
from worker.ranks.parts.refusal import NotSplittable


@pytest.fixture(scope="module")
def mixture_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that mlx-lm can split both ways."""
    return make("qwen3_moe", tmp_path_factory.mktemp("models") / "qwen3_moe")


def test_each_rank_has_its_part_of_the_heads(llama_path: Path) -> None:
    whole = build_modules(llama_path, trusted=False)
    parts = [build_part(llama_path, make_group(2, rank), trusted=False).model for rank in (0, 1)]
    name = "model.layers.0.self_attn.q_proj.weight"
    rows = [dict(tree_flatten(model.parameters()))[name] for model in (whole, *parts)]
    half = rows[0].shape[0] // 2
    assert [part.tolist() for part in rows[1:]] == [
        rows[0][:half].tolist(),
        rows[0][half:].tolist(),
    ]
    assert all(weight_bytes_of(part) < weight_bytes_of(whole) for part in parts)


def test_a_model_with_both_forms_is_split_by_heads(mixture_path: Path) -> None:
    part = build_part(mixture_path, make_group(2), trusted=False)
    assert (part.split, split_of(part.model)) == ("tensor", "tensor")


def test_a_model_with_both_forms_is_split_by_layers_where_it_is_asked(mixture_path: Path) -> None:
    part = build_part(mixture_path, make_group(2), trusted=False, setting="pipeline")
    assert (part.split, split_of(part.model)) == ("pipeline", "pipeline")


def test_a_model_is_split_by_layers_whose_heads_cannot_be_divided(tmp_path: Path) -> None:
    config = deepen(config_of("qwen3_moe"), 3)
    path = write(tmp_path / "qwen3_moe", build(config), config)
    with pytest.raises(NotSplittable, match="of 4 cannot be split over 3 ranks"):
        build_part(path, make_group(3), trusted=False, setting="tensor")
    part = build_part(path, make_group(3), trusted=False)
    # No layer is changed by the attempt to divide the heads.
    weights = dict(tree_flatten(part.model.parameters()))
    whole = dict(tree_flatten(build_modules(path, trusted=False).parameters()))
    assert part.split == "pipeline"
    assert {name: array.shape for name, array in weights.items()} == {
        name: whole[name].shape for name in weights
    }


def test_layers_that_were_divided_in_vain_are_whole_in_a_pipeline(tmp_path: Path) -> None:
    # Its heads and experts can be divided by three, and its recurrence cannot.
    config = deepen(divide_in_three(config_of("kimi_k3")), 6)
    path = write(tmp_path / "kimi_k3", build(config), config)
    with pytest.raises(NotSplittable, match="equal size: attempting 3 splits"):
        build_part(path, make_group(3), trusted=False, setting="tensor")
    part = build_part(path, make_group(3), trusted=False)
    whole = dict(tree_flatten(build_modules(path, trusted=False).parameters()))
    weights = dict(tree_flatten(part.model.parameters()))
    assert part.split == "pipeline"
    assert {name: array.shape for name, array in weights.items()} == {
        name: whole[name].shape for name in weights
    }


def test_a_model_is_refused_whose_heads_cannot_be_distributed(llama_path: Path) -> None:
    reason = r"num_attention_heads of 4 cannot be .* 3 ranks, and .* no pipeline-parallel form"
    with pytest.raises(NotSplittable, match=reason):
        build_part(llama_path, make_group(3), trusted=False)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("auto", "no tensor-parallel form, and no pipeline-parallel one"),
        ("tensor", "no tensor-parallel form"),
        ("pipeline", "no pipeline-parallel form"),
    ],
)
def test_a_model_is_refused_that_mlx_lm_cannot_split(
    gemma_path: Path, setting: SplitSetting, reason: str
) -> None:
    with pytest.raises(NotSplittable, match=f"cannot split gemma3_text over 2 ranks: .*{reason}"):
        build_part(gemma_path, make_group(2), trusted=False, setting=setting)
