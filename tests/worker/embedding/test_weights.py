"""Weights are found by the names and in the types that published folders have."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.worker.embedding.opening import (
    EXPECTED,
    change_weights,
    compute,
    open_folder,
    settings_of,
    write_sample,
)
from worker.embedding.facts import NotAnEmbeddingModel

Weights = dict[str, mx.array]
Change = Callable[[Weights], Weights]
TOLERANCE = 1e-4
HALF_COSINE, BITS_COSINE = 0.99, 0.98
ENCODERS = ("bert-mean", "xlm-roberta-cls", "mpnet-mean", "modernbert-mean", "embedding-gemma")
EVERY_KIND = (*ENCODERS, "qwen3-embedding", "mistral-last", "bert-reranker", "qwen3-reranker")


def prefixed(prefix: str) -> Change:
    return lambda weights: {f"{prefix}{name}": each for name, each in weights.items()}


def with_extra(*names: str) -> Change:
    return lambda weights: weights | {name: mx.zeros((3,)) for name in names}


def with_old_names(weights: Weights) -> Weights:
    renames = ((r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta"))
    for pattern, text in renames:
        weights = {re.sub(pattern, text, name): each for name, each in weights.items()}
    return weights


def cast(dtype: mx.Dtype) -> Change:
    return lambda weights: {name: each.astype(dtype) for name, each in weights.items()}


def quantised(weights: Weights) -> Weights:
    """The matrices in 8 bits, as mlx-lm writes them."""
    found: Weights = {}
    for name, each in weights.items():
        if each.ndim == 2 and each.shape[1] % 32 == 0 and "position" not in name:
            parts = mx.quantize(each, group_size=32, bits=8)
            found |= dict(
                zip((name, name[:-6] + "scales", name[:-6] + "biases"), parts, strict=True)
            )
        else:
            found[name] = each
    return found


def values_after(name: str, folder: Path, change: Change) -> tuple[np.ndarray, np.ndarray]:
    """The values with changed weights, and the stored ones."""
    write_sample(name, folder)
    change_weights(folder, change)
    model = open_folder(folder, settings_of(name)).model
    return compute(model, EXPECTED[name]["rows"]), np.array(EXPECTED[name]["values"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bert-mean", prefixed("bert.")),
        ("bert-mean", with_old_names),
        ("bert-mean", with_extra("pooler.dense.weight", "cls.predictions.bias")),
        ("bert-mean", with_extra("embeddings.position_ids")),
        ("xlm-roberta-cls", prefixed("roberta.")),
        ("xlm-roberta-cls", with_extra("lm_head.dense.weight", "pooler.dense.bias")),
        ("mpnet-mean", prefixed("mpnet.")),
        ("mpnet-mean", with_extra("lm_head.bias", "pooler.dense.bias")),
        ("modernbert-mean", prefixed("model.")),
        ("modernbert-mean", with_extra("head.dense.weight", "decoder.bias")),
        ("embedding-gemma", prefixed("model.")),
        ("qwen3-embedding", prefixed("model.")),
        ("mistral-last", with_extra("lm_head.weight")),
    ],
)
def test_names_of_whole_models_are_those_of_their_encoder(
    name: str, change: Change, tmp_path: Path
) -> None:
    values, expected = values_after(name, tmp_path, change)
    assert np.abs(values - expected).max() < TOLERANCE


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("name", EVERY_KIND)
def test_weights_in_half_precision_give_nearly_the_same(
    name: str, dtype: mx.Dtype, tmp_path: Path
) -> None:
    values, expected = values_after(name, tmp_path, cast(dtype))
    assert values.dtype == np.float32
    assert similarity(values, expected) > HALF_COSINE


@pytest.mark.parametrize("name", EVERY_KIND)
def test_weights_of_8_bits_give_nearly_the_same(name: str, tmp_path: Path) -> None:
    write_sample(name, tmp_path)
    config = (tmp_path / "config.json").read_text()
    quantisation = '{"quantization": {"group_size": 32, "bits": 8}, '
    (tmp_path / "config.json").write_text(config.replace("{", quantisation, 1))
    change_weights(tmp_path, quantised)
    model = open_folder(tmp_path, settings_of(name)).model
    values = compute(model, EXPECTED[name]["rows"])
    assert similarity(values, np.array(EXPECTED[name]["values"])) > BITS_COSINE
    assert any(array.dtype == mx.uint32 for array in model.arrays())


def test_linear_layers_may_be_among_the_other_weights(tmp_path: Path) -> None:
    name = "embedding-gemma"
    write_sample(name, tmp_path)
    dense: Weights = {}
    for index, folder in enumerate(("2_Dense", "3_Dense")):
        loaded = mx.load(str(tmp_path / folder / "model.safetensors"))
        assert isinstance(loaded, dict)
        dense[f"dense.{index}.weight"] = mx.array(loaded["linear.weight"])
        (tmp_path / folder / "model.safetensors").unlink()
    change_weights(tmp_path, lambda weights: weights | dense)
    values = compute(open_folder(tmp_path).model, EXPECTED[name]["rows"])
    assert np.abs(values - np.array(EXPECTED[name]["values"])).max() < TOLERANCE


@pytest.mark.parametrize("name", ENCODERS)
def test_a_missing_an_unknown_and_a_misshapen_weight_are_named(name: str, tmp_path: Path) -> None:
    write_sample(name, tmp_path)
    facts = open_folder(tmp_path).texts.facts
    assert facts.kind == "embedding"
    names = sorted(EXPECTED[name]["shapes"][""])
    lost = next(each for each in names if "layer" in each)

    def without(weights: Weights) -> Weights:
        return {each: array for each, array in weights.items() if each != lost}

    for change, message in (
        (without, "its files lack encoder.layers.0."),
        (with_extra("surplus.weight"), "without a place: encoder.surplus.weight"),
        (lambda weights: weights | {lost: mx.zeros((1, 2, 3))}, "has the shape (1, 2, 3)"),
    ):
        write_sample(name, tmp_path)
        change_weights(tmp_path, change)
        with pytest.raises(NotAnEmbeddingModel, match=re.escape(message)):
            open_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [("bert-mean", "model.safetensors"), ("embedding-gemma", "2_Dense/model.safetensors")],
)
def test_a_folder_without_safetensors_is_named(name: str, file: str, tmp_path: Path) -> None:
    (write_sample(name, tmp_path) / file).unlink()
    with pytest.raises(NotAnEmbeddingModel, match=r"has no model\*\.safetensors"):
        open_folder(tmp_path)


def test_a_model_of_another_type_is_named(tmp_path: Path) -> None:
    folder = write_sample("bert-mean", tmp_path)
    config = (folder / "config.json").read_text().replace('"bert"', '"deberta"')
    (folder / "config.json").write_text(config)
    with pytest.raises(NotAnEmbeddingModel, match="'deberta' is no decoder of mlx-lm"):
        open_folder(folder)


def similarity(values: np.ndarray, expected: np.ndarray) -> float:
    """The least cosine of two lists of vectors; of scores, one less the largest difference."""
    if values.ndim == 1:
        return 1.0 - float(np.abs(values - expected).max())
    lengths = np.linalg.norm(values, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((values * expected).sum(axis=1) / lengths).min())
