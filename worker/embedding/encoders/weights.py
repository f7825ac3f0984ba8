"""A model's weights: the files of its folder into the modules of this district."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import infer_quant_config

from worker.embedding.facts import NotAnEmbeddingModel

WEIGHT_FILES = "model*.safetensors"
SHOWN_NAMES = 5
# Of LayerNorms in checkpoints that were converted from TensorFlow.
OLD_NAMES = ((re.compile(r"\.gamma$"), ".weight"), (re.compile(r"\.beta$"), ".bias"))
Renames = Sequence[tuple[re.Pattern[str], str]]


def read_weights(folder: Path) -> dict[str, mx.array]:
    """The arrays of a folder's safetensors files, which are read lazily.

    Raises:
        NotAnEmbeddingModel: it has none.
    """
    files = sorted(folder.glob(WEIGHT_FILES))
    if not files:
        raise NotAnEmbeddingModel(f"its folder {folder.name!r} has no {WEIGHT_FILES}")
    weights: dict[str, mx.array] = {}
    for file in files:
        loaded = mx.load(str(file))
        assert isinstance(loaded, dict)
        weights.update(loaded)
    return weights


def rename(
    weights: Mapping[str, mx.array], renames: Renames, unused: re.Pattern[str] | None = None
) -> dict[str, mx.array]:
    """The weights by the names of this district's modules, without `unused` ones."""
    renamed = {}
    for name, array in weights.items():
        for pattern, text in (*OLD_NAMES, *renames):
            name = pattern.sub(text, name)
        if unused is None or not unused.search(name):
            renamed[name] = array
    return renamed


def fill(model: nn.Module, weights: Mapping[str, mx.array]) -> None:
    """Set the weights of a model, whose layers become quantised where the weights are.

    Raises:
        NotAnEmbeddingModel: a weight is missing, unknown, or has another shape.
    """
    quantise(model, weights)
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    if missing := sorted(parameters.keys() - weights.keys()):
        raise NotAnEmbeddingModel(f"its files lack {several(missing)}")
    if extra := sorted(weights.keys() - parameters.keys()):
        raise NotAnEmbeddingModel(f"its files have weights without a place: {several(extra)}")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            shapes = f"{weights[name].shape} and not {parameter.shape}"
            raise NotAnEmbeddingModel(f"its weight {name} has the shape {shapes}")
    model.eval()
    model.load_weights(list(weights.items()), strict=True)


def quantise(model: nn.Module, weights: Mapping[str, mx.array]) -> None:
    """Quantise the layers whose weights have scales, as mlx-lm writes them."""

    def choose(name: str, module: nn.Module) -> bool | dict[str, Any]:
        if f"{name}.scales" not in weights or not hasattr(module, "to_quantized"):
            return False
        # A layer may be quantised unlike the others.
        parameters: dict[str, Any] = infer_quant_config(name, module, dict(weights))
        return parameters

    nn.quantize(model, class_predicate=choose)


def lay_out(model: nn.Module) -> None:
    """Lay out matrices for the processor, where it computes.

    MLX (0.32.4) multiplies there by a matrix whose columns are contiguous 2.4 times as fast. Go
    without it once it does not.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.weight = mx.contiguous(module.weight.T).T


def several(names: Sequence[str]) -> str:
    """Some names and the count of the others."""
    shown = ", ".join(names[:SHOWN_NAMES])
    rest = len(names) - SHOWN_NAMES
    return f"{shown} and {rest} more" if rest > 0 else shown
