"""How a model is split over the ranks of a group, and this rank's part of it.

Tensor-parallel each rank has a part of each layer, pipeline-parallel some of the layers. Both
are mlx-lm's own code for each family.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from protocol.ranks import Split, SplitSetting
from worker.memory.kv_cost import costs_of_parts
from worker.models.weight_loader import build_modules
from worker.ranks.parts.pipeline import find_pipeline, keep_stage
from worker.ranks.parts.refusal import NotSplittable
from worker.ranks.parts.tensor import has_tensor_form, keep_tensor_part


@dataclass(frozen=True, slots=True)
class Part:
    """This rank's modules of a model, and how it is split."""

    model: nn.Module
    split: Split


def build_part(
    path: Path, group: mx.distributed.Group, *, trusted: bool, setting: SplitSetting = "auto"
) -> Part:
    """This rank's part of the model of a folder, whose weights are read lazily.

    With `auto` it is tensor-parallel where that is possible, else pipeline-parallel.

    Raises:
        NotSplittable: mlx-lm has no code for that, or the sizes do not allow it.
        Exception: as from `build_modules`.
    """
    model = build_modules(path, trusted=trusted)
    reason = refusal_of_forms(model, setting)
    if reason is not None:
        raise NotSplittable(
            f"mlx-lm cannot split {name_of(model)} over {group.size()} ranks: {reason}"
        )
    if setting != "pipeline" and has_tensor_form(model):
        try:
            keep_tensor_part(model, path, group)
            return Part(model, "tensor")
        except NotSplittable as error:
            if setting == "tensor":
                raise
            # What has failed may have changed some layers.
            model = build_modules(path, trusted=trusted)
            if find_pipeline(model) is None:
                raise NotSplittable(
                    f"{error}, and mlx-lm has no pipeline-parallel form of it"
                ) from error
    keep_stage(model, group)
    return Part(model, "pipeline")


def refusal_of_forms(model: nn.Module, setting: SplitSetting) -> str | None:
    """Why mlx-lm has no code to split a model as it is set; None if it has."""
    has_tensor, has_pipeline = has_tensor_form(model), find_pipeline(model) is not None
    match setting:
        case "tensor" if not has_tensor:
            return "it has no tensor-parallel form"
        case "pipeline" if not has_pipeline:
            return "it has no pipeline-parallel form"
        case "auto" if not has_tensor and not has_pipeline:
            return "it has no tensor-parallel form, and no pipeline-parallel one"
    return None


def name_of(model: nn.Module) -> str:
    """The model's type, as mlx-lm names its module."""
    return type(model).__module__.rpartition(".")[2]


def split_of(model: nn.Module) -> Split:
    """How a model of which this process has a part is split."""
    return "tensor" if costs_of_parts(model) is None else "pipeline"
