"""The forms that a model's weights are published in: quantised, in 16 bits, sharded, adapted."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import quantize_model

from tests.models.architectures import making
from tests.models.architectures.sizes import Config
from tests.models.architectures.table import config_of

GROUP_SIZE = 32
RANK = 4
SHARDS = 3
ADAPTER_DEVIATION = 0.5
ADAPTED_LAYERS = ["self_attn.q_proj", "self_attn.v_proj"]
ADAPTER_PARTS = ("lora_a", "lora_b", "m")


@dataclass(frozen=True)
class Files:
    """A model's folder, and that of its adapter."""

    model: Path
    adapter: Path | None = None


Format = Callable[[str, Path], Files]


def quantised(bits: int, mode: str, group_size: int, family: str, folder: Path) -> Files:
    """Weights of a few bits, with scales for each group."""
    config = config_of(family)
    model = making.build(config)
    # It prints how many bits there are.
    with contextlib.redirect_stdout(io.StringIO()):
        model, config = quantize_model(model, config, group_size, bits, mode)
    return Files(making.write(folder / "model", model, config))


def cast(dtype: mx.Dtype, family: str, folder: Path) -> Files:
    """Weights of 16 bits."""
    config: Config = {**config_of(family), "torch_dtype": str(dtype).rpartition(".")[2]}
    model = making.build(config)
    model.set_dtype(dtype)
    return Files(making.write(folder / "model", model, config))


def sharded(family: str, folder: Path) -> Files:
    """Weights in several files, and an index of them."""
    path = making.make(family, folder / "model")
    weights: dict[str, mx.array] = mx.load(str(path / "model.safetensors"))  # type: ignore[assignment]
    mx.eval(weights)
    (path / "model.safetensors").unlink()
    files: dict[str, str] = {}
    for number in range(SHARDS):
        names = sorted(weights)[number::SHARDS]
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        shard = {name: weights[name] for name in names}
        mx.save_safetensors(str(path / file), shard, metadata={"format": "mlx"})
        files |= dict.fromkeys(names, file)
    total = sum(array.nbytes for array in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": files}
    making.write_json(path / "model.safetensors.index.json", index)
    return Files(path)


def adapted(kind: str, family: str, folder: Path) -> Files:
    """Weights in float32, and a LoRA or DoRA adapter for all layers."""
    config = config_of(family)
    path = making.make(family, folder / "model")
    parameters = {"rank": RANK, "scale": 2.0, "dropout": 0.0, "keys": ADAPTED_LAYERS}
    settings = {
        "fine_tune_type": kind,
        "num_layers": config["num_hidden_layers"],
        "lora_parameters": parameters,
    }
    model = making.build(config)
    linear_to_lora_layers(model, config["num_hidden_layers"], parameters, kind == "dora")
    adapter = folder / "adapter"
    adapter.mkdir()
    making.write_json(adapter / "adapter_config.json", settings)
    mx.save_safetensors(str(adapter / "adapters.safetensors"), draw_adapter(model))
    return Files(path, adapter)


def draw_adapter(model: nn.Module) -> dict[str, mx.array]:
    """Random weights of an adapter; a new one's would change nothing."""
    generator = np.random.default_rng(making.SEED)
    drawn = {}
    for name, value in tree_flatten(model.parameters()):
        part = name.rpartition(".")[2]
        if part in ADAPTER_PARTS:
            noise = mx.array(generator.normal(0.0, ADAPTER_DEVIATION, value.shape))
            drawn[name] = (value + noise).astype(value.dtype)
    return drawn


FORMATS: Mapping[str, Format] = {
    **{f"{bits} bits": partial(quantised, bits, "affine", GROUP_SIZE) for bits in (3, 4, 5, 6, 8)},
    "mxfp4": partial(quantised, 4, "mxfp4", 32),
    "mxfp8": partial(quantised, 8, "mxfp8", 32),
    "nvfp4": partial(quantised, 4, "nvfp4", 16),
    "bfloat16": partial(cast, mx.bfloat16),
    "float16": partial(cast, mx.float16),
    "sharded": sharded,
    "LoRA": partial(adapted, "lora"),
    "DoRA": partial(adapted, "dora"),
}
