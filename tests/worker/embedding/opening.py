"""Opens the tiny models, with the weights whose vectors are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from tests.models.embedding.folders import write_folder
from tests.models.embedding.samples import SAMPLES, Sample
from worker.embedding.facts import EmbeddingSettings
from worker.embedding.model import EmbeddingModel, load_embedding_model
from worker.embedding.texts import EmbeddingTexts, open_texts

EXPECTED: dict[str, Any] = json.loads(Path(__file__).with_name("vectors.json").read_text())


class Opened(NamedTuple):
    """A model and what makes its rows."""

    texts: EmbeddingTexts
    model: EmbeddingModel


def write_sample(name: str, folder: Path, sample: Sample | None = None) -> Path:
    """The folder of a tiny model; another `sample` has the same weights."""
    return write_folder(sample or SAMPLES[name], EXPECTED[name]["shapes"], folder)


def open_folder(folder: Path, settings: EmbeddingSettings | None = None) -> Opened:
    """The model of a folder."""
    texts = open_texts(folder, settings)
    return Opened(texts, load_embedding_model(folder, texts.facts))


def settings_of(name: str) -> EmbeddingSettings:
    """What a configuration says of a tiny model: nothing but that a decoder reranks."""
    return EmbeddingSettings(kind="rerank" if name == "qwen3-reranker" else None)


def compute(model: EmbeddingModel, rows: list[list[int]]) -> np.ndarray[Any, Any]:
    """The vectors or the scores of rows."""
    is_reranker = model.facts.kind == "rerank"
    return np.array(model.score(rows) if is_reranker else model.embed(rows))


def change_weights(folder: Path, change: Any, file: str = "model.safetensors") -> None:
    """Write the weights of a folder as `change` gives them, from a dictionary of arrays."""
    path = str(folder / file)
    weights = mx.load(path)
    assert isinstance(weights, dict)
    # Read before the file is written.
    mx.eval(weights)
    mx.save_safetensors(path, change(weights), metadata={"format": "mlx"})
