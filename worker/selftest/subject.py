"""A model under test, loaded as the worker loads it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import mlx.nn as nn

from protocol.messages import Configure, ModelSource
from protocol.selftest import BUILT_IN
from worker.cache.prefix_cache import PrefixCache
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.models.families import build_registry
from worker.models.model_config import ModelConfigLoader
from worker.models.pool import ModelPool
from worker.models.weight_loader import LoadedModel

MAX_RUNNING = 64
# The defaults of the settings.
STEP_TOKENS = 512
# The most time for the load and the whole check; what is not checked by then is not allowed.
CHECK_S = 60.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model. `name` is `BUILT_IN` or `GIVEN`."""

    name: str
    loaded: LoadedModel
    load_s: float

    @property
    def model(self) -> nn.Module:
        """The modules that compute it."""
        return self.loaded.engine.model

    @property
    def is_built_in(self) -> bool:
        return self.name == BUILT_IN

    @property
    def vocabulary_size(self) -> int:
        return self.loaded.config.vocabulary_size

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without a chat template."""
        tokens: list[int] = self.loaded.config.prompts.tokenizer.encode(text)
        return tokens

    def make_engine(
        self, *, prompt_cache: PrefixCache | None = None, slice_tokens: int = STEP_TOKENS
    ) -> Engine:
        """An engine of its own, with the rules that the check at load has found."""
        return Engine(
            self.model,
            max_running=MAX_RUNNING,
            prefill=PrefillLimits(slice_tokens),
            prompt_cache=prompt_cache,
            rules=self.loaded.engine.rules,
        )


def load_subject(source: ModelSource) -> Subject:
    """Load a model and check it.

    Raises:
        LoadError: it cannot be loaded.
    """
    started = time.perf_counter()
    configure = Configure(
        models=[source],
        max_running=MAX_RUNNING,
        prefill_step_tokens=STEP_TOKENS,
        context_limit_tokens=0,
        memory_limit_bytes=0,
        cache_limit_bytes=0,
    )
    pool = ModelPool(configure, ModelConfigLoader(build_registry(), 0))
    pool.load_all()
    loaded = pool[source.id]
    # The service goes on with a check that takes long while the model is idle.
    while pool.has_checks and time.perf_counter() < started + CHECK_S:
        pool.advance_check()
    return Subject(source.id, loaded, time.perf_counter() - started)
