"""A model on its way to the device, slice by slice, so that others take their steps between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import load_adapters, load_model

from protocol.messages import Configure, LoadedModel
from worker.answers import Answers
from worker.blueprint import Blueprint
from worker.cache import PromptCache
from worker.engine import Engine, weight_bytes_of
from worker.prompt import PromptBuilder

# How much is read between two steps of the streams, at most; an array that is larger is read
# as one. A tenth of a second of a slow disk.
LOAD_SLICE_BYTES = 64 * 1024 * 1024
MS_PER_S = 1000.0


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """One loaded model and all that serves it."""

    info: LoadedModel
    engine: Engine
    stop_tokens: frozenset[int]
    blueprint: Blueprint

    @property
    def answers(self) -> Answers:
        """What reads its answers."""
        return self.blueprint.answers

    @property
    def prompts(self) -> PromptBuilder:
        """What makes token ids of its prompts."""
        return self.blueprint.prompts


class WeightLoad:
    """One model being loaded. `advance` until it is True, then `finish`."""

    def __init__(
        self, blueprint: Blueprint, configure: Configure, prompt_cache: PromptCache
    ) -> None:
        self.blueprint = blueprint
        self.done_bytes = 0
        self.total_bytes = blueprint.file_bytes
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

    def finish(self) -> ResidentModel:
        """The model, once all of it is read."""
        assert self._model is not None
        configure, blueprint = self._configure, self.blueprint
        engine = Engine(
            self._model,
            max_running=configure.max_running,
            prefill_step_tokens=configure.prefill_step_tokens,
            name=blueprint.content_key,
            prompt_cache=self._prompt_cache,
        )
        blueprint.prompts.wants_borders = not engine.cuttable
        return ResidentModel(
            info=LoadedModel(
                blueprint.id,
                blueprint.family,
                blueprint.context_length,
                blueprint.vocabulary_size,
                self.total_bytes,
                load_ms=(time.monotonic() - self._started_at) * MS_PER_S,
                has_chat_template=blueprint.prompts.has_chat_template,
                template_variables=blueprint.prompts.variables.names,
                reasoning_effort=blueprint.prompts.variables.effort is not None,
                fill_in_middle=blueprint.prompts.infill is not None,
            ),
            engine=engine,
            stop_tokens=blueprint.stop_tokens,
            blueprint=blueprint,
        )

    def _lay_out(self) -> None:
        """The modules with arrays that are not read yet."""
        model, _ = load_model(self.blueprint.path, lazy=True)
        if self.blueprint.source.adapter_path is not None:
            model = load_adapters(model, self.blueprint.source.adapter_path)
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
