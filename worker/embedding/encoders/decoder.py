"""Decoders of mlx-lm, read through the states of their last layer.

Attention looks back only, so padding behind a row changes none of its states.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import _get_classes, load_model

from worker.embedding.facts import NotAnEmbeddingModel
from worker.embedding.model_folder import ENCODERS
from worker.folder.mlx_lm_folder import folder_for_mlx_lm

HEAD = "lm_head"
BACKBONE = "model."


class DecoderEncoder(nn.Module):
    """The states of a decoder's rows, and the logits behind one state."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.decoder = model

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:
        """States [rows, length, hidden] of token ids [rows, length]."""
        return self.decoder.model(ids)

    def logits(self, states: mx.array) -> mx.array:
        """The logits [rows, vocabulary] behind states [rows, hidden]."""
        if HEAD in self.decoder:
            return self.decoder.lm_head(states)
        return self.decoder.model.embed_tokens.as_linear(states)


def load_decoder(folder: Path, *, keep_head: bool, trusted: bool = False) -> DecoderEncoder:
    """The decoder of a folder, its weights read lazily; without `keep_head` it gives no logits.

    Raises:
        NotAnEmbeddingModel: mlx-lm has no states of such a model.
        Exception: any error of mlx-lm.
    """
    with folder_for_mlx_lm(folder) as readable:
        model, _ = load_model(
            readable,
            lazy=True,
            trust_remote_code=trusted,
            get_model_classes=lambda config: as_backbone(config, keep_head=keep_head),
        )
    if not isinstance(model.get("model"), nn.Module):
        raise NotAnEmbeddingModel("mlx-lm gives no states of a model of this type")
    return DecoderEncoder(model)


def as_backbone(config: dict[str, Any], *, keep_head: bool) -> tuple[Callable[..., Any], Any]:
    """mlx-lm's classes of a model, for folders that may have its backbone alone.

    Such folders have the names of the backbone's weights, and no head.

    Raises:
        NotAnEmbeddingModel: mlx-lm has no such model.
    """
    try:
        model_class, arguments_class = _get_classes(config)
    except ValueError as error:
        known = ", ".join([*ENCODERS, "EmbeddingGemma"])
        name = str(config["model_type"])[:100]
        message = f"the type {name!r} is no decoder of mlx-lm, and of encoders there are {known}"
        raise NotAnEmbeddingModel(message) from error

    class Backbone(model_class):  # type: ignore[misc, valid-type]
        def __init__(self, arguments: Any) -> None:
            super().__init__(arguments)
            if not keep_head:
                self.pop(HEAD, None)

        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            if not any(name.startswith(BACKBONE) for name in weights):
                weights = {in_model(name): array for name, array in weights.items()}
            if hasattr(model_class, "sanitize"):
                weights = super().sanitize(weights)
            if keep_head:
                return weights
            return {name: each for name, each in weights.items() if not name.startswith(HEAD)}

    return Backbone, arguments_class


def in_model(name: str) -> str:
    """The name of a backbone's weight in the whole model."""
    return name if name.startswith(HEAD) else f"{BACKBONE}{name}"
