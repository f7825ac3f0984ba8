"""A model on its way to the device, slice by slice, so that others take their steps between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import load_adapters, load_model

from protocol.messages import Configure, ModelInfo
from protocol.units import MS_PER_S
from worker.cache.prefix_cache import PrefixCache
from worker.engine.engine import Engine, weight_bytes_of
from worker.models.model_config import ModelConfig

# How much is read between two steps of the streams, at most; an array that is larger is read
# as one. A tenth of a second of a slow disk.
LOAD_SLICE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One loaded model and all that serves it."""

    info: ModelInfo
    engine: Engine
    config: ModelConfig


class WeightLoad:
    """One model being loaded. `advance` until it is True, then `finish`."""

    def __init__(
        self, config: ModelConfig, configure: Configure, prompt_cache: PrefixCache
    ) -> None:
        self.config = config
        self.done_bytes = 0
        self.total_bytes = config.file_bytes
        self._configure = configure
        self._prompt_cache = prompt_cache
        self._started_at = time.monotonic()
        self._model: nn.Module | None = None
        self._parts: Iterator[list[mx.array]] = iter(())

    def advance(self) -> bool:
        """Lay out the model, or read its next slice; whether all is read.

        Raises:
            Exception: whatever mlx-lm and MLX raise for files that are no model they know.
        """
        if self._model is None:
            self._lay_out()
            return False
        part = next(self._parts, None)
        if part is None:
            return True
        mx.eval(part)
        self.done_bytes += sum(array.nbytes for array in part)
        return False

    def finish(self) -> LoadedModel:
        """The model, once all of it is read."""
        assert self._model is not None
        configure, config = self._configure, self.config
        engine = Engine(
            self._model,
            max_running=configure.max_running,
            prefill_step_tokens=configure.prefill_step_tokens,
            name=config.content_key,
            prompt_cache=self._prompt_cache,
        )
        prompts = config.prompts
        info = ModelInfo(
            id=config.id,
            family=config.family,
            context_length=config.context_length,
            vocabulary_size=config.vocabulary_size,
            weight_bytes=self.total_bytes,
            load_ms=(time.monotonic() - self._started_at) * MS_PER_S,
            capabilities=config.capabilities,
            has_chat_template=prompts.has_chat_template,
            template_variables=prompts.variables.names,
            reasoning_effort=prompts.variables.effort is not None,
            fill_in_middle=prompts.fill_in_middle is not None,
        )
        return LoadedModel(info=info, engine=engine, config=config)

    def _lay_out(self) -> None:
        """The modules with arrays that are not read yet."""
        model, _ = load_model(self.config.path, lazy=True)
        if self.config.source.adapter_path is not None:
            model = load_adapters(model, self.config.source.adapter_path)
            model.eval()
        weights: list[mx.array] = [array for _, array in tree_flatten(model.parameters())]
        self.total_bytes = weight_bytes_of(model)
        self._parts = slices(weights)
        self._model = model


def slices(weights: list[mx.array]) -> Iterator[list[mx.array]]:
    """The weights in runs of at most `LOAD_SLICE_BYTES`, or of one array that is larger."""
    part: list[mx.array] = []
    size = 0
    for array in weights:
        if part and size + array.nbytes > LOAD_SLICE_BYTES:
            yield part
            part, size = [], 0
        part.append(array)
        size += array.nbytes
    if part:
        yield part
