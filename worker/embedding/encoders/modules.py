"""The modules of a model, built by its configuration and filled with its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from worker.embedding.encoders import bert, gemma, modernbert, mpnet
from worker.embedding.encoders.decoder import load_decoder
from worker.embedding.encoders.heads import BertHead, DenseLayers, ModernBertHead, RobertaHead
from worker.embedding.encoders.weights import (
    Renames,
    fill,
    lay_out,
    read_weights,
    rename,
)
from worker.embedding.facts import EmbeddingFacts, NotAnEmbeddingModel
from worker.embedding.model_folder import first_position_of
from worker.embedding.sentence_transformers import DenseLayer, read_dense_layers, read_modules

# The weights of what follows the states, in the names of transformers and, for `dense`, in
# folders that were converted with those layers among the others.
HEAD_NAMES = re.compile(r"^(pooler|classifier|head|dense)\.")
DENSE_RENAMES = ((re.compile(r"^linear\."), ""),)
RENAMES: Mapping[str, Renames] = {
    "bert": bert.RENAMES,
    "roberta": bert.RENAMES,
    "modernbert": modernbert.RENAMES,
    "mpnet": mpnet.RENAMES,
    "gemma": gemma.RENAMES,
}
UNUSED: Mapping[str, re.Pattern[str]] = {
    "bert": bert.UNUSED,
    "roberta": bert.UNUSED,
    "modernbert": modernbert.UNUSED,
    "mpnet": mpnet.UNUSED,
    "gemma": gemma.UNUSED,
}


class RowModules(nn.Module):
    """What computes a row's states, and what follows them."""

    def __init__(self, encoder: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head


def build_modules(
    folder: Path, config: Mapping[str, Any], facts: EmbeddingFacts, *, trusted: bool = False
) -> RowModules:
    """The modules of a folder, whose weights are read when they are evaluated.

    Raises:
        NotAnEmbeddingModel: weights are missing, unknown or of another shape, or the model is
            one that is not computed here.
        Exception: any other error of mlx-lm or MLX.
    """
    if facts.architecture == "decoder":
        modules = build_decoder(folder, facts, trusted=trusted)
    else:
        modules = build_encoder(folder, config, facts)
    lay_out(modules)
    return modules


def build_decoder(folder: Path, facts: EmbeddingFacts, *, trusted: bool) -> RowModules:
    """A decoder of mlx-lm, and the linear layers behind its pooling."""
    dense = read_dense_layers(folder, read_modules(folder) or ())
    decoder = load_decoder(folder, keep_head=facts.answers is not None, trusted=trusted)
    if not dense:
        return RowModules(decoder, None)
    head = DenseLayers(dense)
    fill(head, read_dense_weights(dense))
    return RowModules(decoder, head)


def build_encoder(folder: Path, config: Mapping[str, Any], facts: EmbeddingFacts) -> RowModules:
    """An encoder, and what follows the states.

    Raises:
        NotAnEmbeddingModel: as `build_modules`.
    """
    dense = read_dense_layers(folder, read_modules(folder) or ())
    try:
        modules = RowModules(make_encoder(config, facts), make_head(config, facts, dense))
    except KeyError as error:
        raise NotAnEmbeddingModel(f"its config.json has no {error.args[0]}") from error
    weights = read_named_weights(folder, facts, modules)
    if dense and not any(name.startswith("head.") for name in weights):
        weights |= {f"head.{name}": each for name, each in read_dense_weights(dense).items()}
    fill(modules, to_float32(weights, facts))
    return modules


def make_encoder(config: Mapping[str, Any], facts: EmbeddingFacts) -> nn.Module:
    """The encoder of a configuration.

    Raises:
        KeyError: a size is missing.
        NotAnEmbeddingModel: it is one that is not computed here.
    """
    match facts.architecture:
        case "bert":
            return bert.BertEncoder(config, separator=facts.separator)
        case "roberta":
            first = first_position_of(config, facts.architecture)
            return bert.BertEncoder(config, first_position=first)
        case "mpnet":
            return mpnet.MpnetEncoder(config)
        case "modernbert":
            return modernbert.ModernBertEncoder(config)
        case "gemma":
            return gemma.GemmaEncoder(config)
        case "decoder":
            raise NotAnEmbeddingModel("a decoder is no encoder")


def make_head(
    config: Mapping[str, Any], facts: EmbeddingFacts, dense: tuple[DenseLayer, ...]
) -> nn.Module | None:
    """What follows the states of an encoder; None if nothing does."""
    if facts.kind == "embedding":
        return DenseLayers(dense) if dense else None
    match facts.architecture:
        case "bert":
            return BertHead(config)
        case "roberta" | "mpnet":
            return RobertaHead(config)
        case _:
            return ModernBertHead(config)


def read_named_weights(
    folder: Path, facts: EmbeddingFacts, modules: RowModules
) -> dict[str, mx.array]:
    """The weights of an encoder's folder by the names of `modules`, without unused ones."""
    unused = UNUSED[facts.architecture]
    weights = rename(read_weights(folder), RENAMES[facts.architecture], unused)
    named = {}
    for name, array in weights.items():
        if not HEAD_NAMES.match(name):
            named[f"encoder.{name}"] = array
        elif modules.head is not None or name.startswith("dense."):
            named[f"head.{name}"] = array
    if facts.architecture in ("roberta", "mpnet"):
        return {name: each for name, each in named.items() if not name.startswith("head.pooler.")}
    return named


def read_dense_weights(layers: tuple[DenseLayer, ...]) -> dict[str, mx.array]:
    """The weights of the linear layers, each from the folder of its own.

    Raises:
        NotAnEmbeddingModel: a folder has none.
    """
    weights = {}
    for index, layer in enumerate(layers):
        for name, array in rename(read_weights(layer.folder), DENSE_RENAMES).items():
            weights[f"dense.{index}.{name}"] = array
    return weights


def to_float32(weights: dict[str, mx.array], facts: EmbeddingFacts) -> dict[str, mx.array]:
    """The weights of a Gemma in float32 if they are float16: its states are too large for that."""
    if facts.architecture != "gemma":
        return weights
    return {
        name: array.astype(mx.float32) if array.dtype == mx.float16 else array
        for name, array in weights.items()
    }
