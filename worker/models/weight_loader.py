"""Loads a model's weights slice by slice, so that other models can be stepped in between."""

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
from worker.engine.prefill_budget import PrefillLimits
from worker.folder.mlx_lm_folder import folder_for_mlx_lm
from worker.models.model_config import ModelConfig

# The largest slice that is read between two steps; a larger array is one slice. A slow disk
# reads it in a tenth of a second.
LOAD_SLICE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One loaded model: its description, its engine and its configuration."""

    info: ModelInfo
    engine: Engine
    config: ModelConfig


class WeightLoad:
    """One load in progress: call `advance` until it returns True, then `finish`."""

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
        self._slices: Iterator[list[mx.array]] = iter(())

    def advance(self) -> bool:
        """Build the model at the first call, then read one slice a call; True if all is read.

        Raises:
            Exception: any error of mlx-lm or MLX for damaged files or an unknown model.
        """
        if self._model is None:
            self._build_model()
            return False
        weights = next(self._slices, None)
        if weights is None:
            return True
        mx.eval(weights)
        self.done_bytes += sum(array.nbytes for array in weights)
        return False

    def finish(self) -> LoadedModel:
        """The loaded model; called after `advance` has returned True."""
        assert self._model is not None
        configure, config = self._configure, self.config
        engine = Engine(
            self._model,
            max_running=configure.max_running,
            prefill=PrefillLimits(
                max_tokens=configure.prefill_step_tokens,
                max_rows=configure.prefill_rows,
                slice_s=configure.prefill_slice_s,
                reserve_bytes=configure.prefill_reserve_bytes,
            ),
            name=config.content_key,
            prompt_cache=self._prompt_cache,
        )
        prompts = config.prompts
        variables, traits = prompts.template.variables, prompts.template.traits
        info = ModelInfo(
            id=config.id,
            family=config.family,
            context_length=config.context_length,
            vocabulary_size=config.vocabulary_size,
            weight_bytes=self.total_bytes,
            load_ms=(time.monotonic() - self._started_at) * MS_PER_S,
            capabilities=config.capabilities,
            has_chat_template=prompts.has_chat_template,
            template_variables=variables.names,
            reasoning_effort=variables.effort is not None,
            thinks=variables.thinks,
            fill_in_middle=prompts.fill_in_middle is not None,
            system_messages=traits.systems,
            leading_systems=traits.leading_systems,
            inner_systems=traits.inner_systems,
        )
        return LoadedModel(info=info, engine=engine, config=config)

    def _build_model(self) -> None:
        """Build the model's modules; their arrays are read lazily."""
        with folder_for_mlx_lm(self.config.path) as folder:
            trusted = self.config.source.trust_remote_code
            model, _ = load_model(folder, lazy=True, trust_remote_code=trusted)
        if self.config.source.adapter_path is not None:
            model = load_adapters(model, self.config.source.adapter_path)
            model.eval()
        weights: list[mx.array] = [array for _, array in tree_flatten(model.parameters())]
        self.total_bytes = weight_bytes_of(model)
        self._slices = slice_weights(weights)
        self._model = model


def slice_weights(weights: list[mx.array]) -> Iterator[list[mx.array]]:
    """The weights in slices of at most `LOAD_SLICE_BYTES`; a larger array is its own slice."""
    current: list[mx.array] = []
    size_bytes = 0
    for array in weights:
        if current and size_bytes + array.nbytes > LOAD_SLICE_BYTES:
            yield current
            current, size_bytes = [], 0
        current.append(array)
        size_bytes += array.nbytes
    if current:
        yield current
