"""The models that are resident: loading them, and what each one decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_model, load_tokenizer

from protocol.messages import Configure, LoadedModel, Loading, ModelSource
from worker.adapters import AdapterRegistry, detect_model_family
from worker.checkpoint import context_length_of, resolve, stop_tokens_of, vocabulary_size_of
from worker.detokenizer import DetokenizerFactory, make_detokenizers
from worker.engine import Engine
from worker.prompt import PromptBuilder
from worker.sampling import Samplers

LOAD_SLICE_BYTES = 256 * 1024 * 1024
MS_PER_S = 1000.0

Announce = Callable[[Loading], None]


class LoadError(Exception):
    """A model that could not be loaded, with the reason."""


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """One loaded model and all that serves it."""

    info: LoadedModel
    engine: Engine
    samplers: Samplers
    detokenizers: DetokenizerFactory
    prompts: PromptBuilder


class Pool:
    """Resident models by id, in the configured order."""

    def __init__(self, configure: Configure, adapters: AdapterRegistry, announce: Announce) -> None:
        self._configure = configure
        self._adapters = adapters
        self._announce = announce
        self._models: dict[str, ResidentModel] = {}

    def __iter__(self) -> Iterator[ResidentModel]:
        return iter(self._models.values())

    def __getitem__(self, id: str) -> ResidentModel:
        return self._models[id]

    def load_all(self) -> None:
        """Load every configured model.

        Raises:
            LoadError: one of them cannot be loaded.
        """
        for source in self._configure.models:
            try:
                self._models[source.id] = self._load(source)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                raise LoadError(f"model {source.id!r} cannot be loaded: {error}") from error

    def _load(self, source: ModelSource) -> ResidentModel:
        started = time.monotonic()
        path = resolve(source.source)
        model, config = load_model(path, lazy=True)
        weight_bytes = self._load_weights(source.id, model)
        family = detect_model_family(config)
        adapter = self._adapters.adapter_for(family)
        tokenizer = self._load_tokenizer(path, config, adapter.chat_template)
        vocabulary_size = vocabulary_size_of(config, tokenizer)
        context_length = context_length_of(config, self._configure.context_limit_tokens)
        info = LoadedModel(
            source.id,
            family,
            context_length,
            vocabulary_size,
            weight_bytes,
            load_ms=(time.monotonic() - started) * MS_PER_S,
        )
        return ResidentModel(
            info,
            Engine(
                model,
                stop_tokens_of(path, tokenizer) | adapter.stop_tokens(tokenizer),
                max_running=self._configure.max_running,
                prefill_step_tokens=self._configure.prefill_step_tokens,
            ),
            Samplers(vocabulary_size),
            make_detokenizers(tokenizer),
            # A tokenizer of its own, because the intake thread uses it meanwhile.
            PromptBuilder(
                self._load_tokenizer(path, config, adapter.chat_template),
                vocabulary_size=vocabulary_size,
                context_length=context_length,
            ),
        )

    def _load_weights(self, id: str, model: nn.Module) -> int:
        """Read the weights slice by slice and tell how far it is; their size in bytes."""
        weights: list[mx.array] = [array for _, array in tree_flatten(model.parameters())]
        total: int = sum(array.nbytes for array in weights)
        done = 0
        for part in slices(weights):
            self._announce(Loading(id, done, total))
            mx.eval(part)
            done += sum(array.nbytes for array in part)
        self._announce(Loading(id, total, total))
        return total

    def _load_tokenizer(
        self,
        path: Path,
        config: dict[str, Any],
        fallback_template: Callable[[TokenizerWrapper], str | None],
    ) -> TokenizerWrapper:
        tokenizer = load_tokenizer(path, eos_token_ids=config.get("eos_token_id"))
        if not tokenizer.has_chat_template and (template := fallback_template(tokenizer)):
            tokenizer.chat_template = template
            tokenizer.has_chat_template = True
        return tokenizer


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
