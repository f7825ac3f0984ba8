"""The files of sentence-transformers in a model's folder: its modules, prompts and lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from worker.embedding.facts import POOLINGS, NotAnEmbeddingModel, Pooling
from worker.folder.json_values import read_object
from worker.folder.remote_code import is_inside

PACKAGE = "sentence_transformers"
MODULES_FILE = "modules.json"
SETTINGS_FILE = "config_sentence_transformers.json"
# The files of the first module, by the age of the model; only the first that exists is read.
LENGTH_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
TRANSFORMER, POOLING, DENSE, NORMALIZE, LOGIT_SCORE = (
    "Transformer",
    "Pooling",
    "Dense",
    "Normalize",
    "LogitScore",
)
# They change nothing where a model is used.
INERT = ("Dropout",)
POOLING_FLAGS: Mapping[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class Module:
    """One module: its kind, the last word of its class, and its folder inside the model's.

    A foreign one has a class of another package, or of the model's own code.
    """

    kind: str
    path: str
    config: dict[str, Any]
    is_foreign: bool = False


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A linear layer behind the pooling, with the activation's class."""

    folder: Path
    inputs: int
    outputs: int
    bias: bool
    activation: str


def read_modules(folder: Path) -> tuple[Module, ...] | None:
    """The modules of a model, in their order; None for a folder that lists none.

    Raises:
        NotAnEmbeddingModel: the list cannot be read, or names a folder outside of the model's.
    """
    file = folder / MODULES_FILE
    if not file.exists():
        return None
    return tuple(_read_module(folder, entry) for entry in _read_list(file))


def _read_list(file: Path) -> list[Any]:
    try:
        content = msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise NotAnEmbeddingModel(f"{file.name} cannot be read: {error}") from error
    if not isinstance(content, list):
        raise NotAnEmbeddingModel(f"{file.name} is no list of modules")
    return content


def _read_module(folder: Path, entry: object) -> Module:
    kind = entry.get("type") if isinstance(entry, dict) else None
    path = entry.get("path", "") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or not isinstance(path, str):
        raise NotAnEmbeddingModel(f"{MODULES_FILE} has an entry without a type or a path")
    if path and not is_inside(path):
        raise NotAnEmbeddingModel(f"{MODULES_FILE} names {path[:100]!r}, outside of the folder")
    config = read_object(folder / path / "config.json")[0] if path else {}
    package, _, name = kind.rpartition(".")
    return Module(name, path, config, is_foreign=package.split(".")[0] != PACKAGE)


def read_pooling(modules: tuple[Module, ...]) -> Pooling | None:
    """The pooling that the modules say; None without such a module.

    Raises:
        NotAnEmbeddingModel: it is one that is not computed here.
    """
    config = next((module.config for module in modules if module.kind == POOLING), None)
    if config is None:
        return None
    if config.get("include_prompt") is False:
        raise NotAnEmbeddingModel("its pooling leaves out the tokens of prompts")
    mode = config.get("pooling_mode")
    named = [mode] if isinstance(mode, str) else list(mode or ())
    found = named or [name for flag, name in POOLING_FLAGS.items() if config.get(flag) is True]
    if len(found) != 1 or found[0] not in POOLINGS:
        several = " and ".join(map(str, found)) or "nothing"
        raise NotAnEmbeddingModel(f"its pooling is {several}: one of {', '.join(POOLINGS)} is used")
    pooling: Pooling = found[0]
    return pooling


def read_dense_layers(folder: Path, modules: tuple[Module, ...]) -> tuple[DenseLayer, ...]:
    """The linear layers behind the pooling, in their order.

    Raises:
        NotAnEmbeddingModel: a layer's configuration lacks its sizes.
    """
    layers = []
    for module in modules:
        if module.kind != DENSE:
            continue
        inputs, outputs = module.config.get("in_features"), module.config.get("out_features")
        if not isinstance(inputs, int) or not isinstance(outputs, int):
            raise NotAnEmbeddingModel(f"{module.path}/config.json has no in and out features")
        activation = str(module.config.get("activation_function") or "Tanh").rpartition(".")[2]
        bias = module.config.get("bias", True) is True
        layers.append(DenseLayer(folder / module.path, inputs, outputs, bias, activation))
    return tuple(layers)


def read_length_file(folder: Path) -> dict[str, Any]:
    """The settings of the first module: `max_seq_length` and `do_lower_case`."""
    found = (name for name in LENGTH_FILES if (folder / name).exists())
    name = next(found, None)
    return {} if name is None else read_object(folder / name)[0]
