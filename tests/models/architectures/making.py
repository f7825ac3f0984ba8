"""Writes the tiny model of a family: random weights of mlx-lm's own class, and a tokenizer."""

from __future__ import annotations

import importlib
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from tests.models import templates, tokenizers
from tests.models.architectures.sizes import Config
from tests.models.architectures.table import config_of

SEED = 1
LEARNED_TOKENS = 300
STOP_TOKEN = "<|im_end|>"
SPECIAL_TOKENS = ["<|im_start|>", STOP_TOKEN]
# With these every part of the network affects the next token: see tests/models/weights.py.
MATRIX_DEVIATION = 2.5
EMBEDDING_DEVIATION = 1.0
# A convolution has few inputs, so that it needs larger weights than a matrix.
CONVOLUTION_DEVIATION = 1.0


def make(family: str, folder: Path) -> Path:
    """Write the family's model in float32 to `folder`, which must not exist yet."""
    config = config_of(family)
    return write(folder, build(config), config)


def write(folder: Path, model: nn.Module, config: Config) -> Path:
    """Write a model and its tokenizer to `folder`, which must not exist yet; return the folder."""
    folder.mkdir(parents=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "tokenizer.json").write_text(tokenizer_text(), "utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_config(config))
    write_json(folder / "config.json", {**config, "eos_token_id": stop_token_id()})
    return folder


def build(config: Config) -> nn.Module:
    """The model of mlx-lm's class, with weights that are the same in every run."""
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    arguments = module.ModelArgs.from_dict(json.loads(json.dumps(config)))
    model: nn.Module = module.Model(arguments)
    generator = np.random.default_rng(SEED)
    drawn = [
        (name, draw(generator, name, value)) for name, value in tree_flatten(model.parameters())
    ]
    model.update(tree_unflatten(drawn))
    mx.eval(model.parameters())
    return model


def draw(generator: np.random.Generator, name: str, value: mx.array) -> mx.array:
    """Random weights in the place of `value`; vectors stay as the class has set them."""
    if value.ndim < 2:
        return value
    if value.dtype == mx.uint32:
        return mx.array(generator.integers(0, 2**32, value.shape, dtype=np.uint32))
    if not mx.issubdtype(value.dtype, mx.floating):
        return value
    deviation = MATRIX_DEVIATION / math.sqrt(value.shape[-1])
    if "embed" in name:
        deviation = EMBEDDING_DEVIATION
    elif value.ndim == 3 and "conv" in name:
        deviation = CONVOLUTION_DEVIATION
    return mx.array(generator.normal(0.0, deviation, value.shape)).astype(value.dtype)


@cache
def tokenizer_text() -> str:
    """The tokenizer.json that all of these models share."""
    tokenizer = tokenizers.byte_level(LEARNED_TOKENS, SPECIAL_TOKENS, bos=None, nfc=False)
    return str(tokenizer.to_str())


@cache
def stop_token_id() -> int:
    """The id of the token that ends an answer."""
    added = json.loads(tokenizer_text())["added_tokens"]
    return next(int(token["id"]) for token in added if token["content"] == STOP_TOKEN)


def tokenizer_config(config: Config) -> dict[str, Any]:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": STOP_TOKEN,
        "pad_token": STOP_TOKEN,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": templates.QWEN,
    }


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a file of JSON."""
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")
