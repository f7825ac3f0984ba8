"""Loads a model's weights slice by slice, so that other models can be stepped in between."""

from __future__ import annotations

import io
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx.utils import tree_flatten
from mlx_lm.utils import load_adapters, load_model

from protocol.batching import BatchRules
from protocol.messages import Configure
from protocol.model_states import ModelInfo
from protocol.ranks import Split
from protocol.units import MS_PER_S
from worker.cache.disk_store import DiskStore
from worker.cache.prefix_cache import PrefixCache
from worker.embedding.model import EmbeddingModel, load_embedding_model
from worker.embedding_batches.batch_check import check_batches
from worker.embedding_batches.engine import Compute, EmbeddingEngine
from worker.embedding_batches.layer_parts import Layers, in_parts
from worker.embedding_batches.text_budget import TextBudget
from worker.engine.batches.speculation.cost_curve import CostCurve
from worker.engine.batches.speculation.draft_model import DraftModel
from worker.engine.batches.speculation.pass_costs import PassCosts
from worker.engine.batches.speculation.speculation import Speculation
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.folder.mlx_lm_folder import folder_for_mlx_lm
from worker.models.model_config import ModelConfig
from worker.selfcheck.check_store import CheckStore
from worker.selfcheck.load_check import LoadCheck, log_rules

logger = logging.getLogger(__name__)

# The largest slice that is read between two steps; a larger array is one slice. A slow disk
# reads it in a tenth of a second.
LOAD_SLICE_BYTES = 64 * 1024 * 1024
# The longest call of texts where no stream waits: a small request comes after it.
CALL_S = 0.25
SPECULATION_OFF = "speculation is off"


@dataclass(slots=True)
class LoadedModel:
    """One loaded model: its description, its engine and its configuration.

    `check` is a check that has not ended during the load; see `settle_check`.
    """

    info: ModelInfo
    engine: Engine
    config: ModelConfig
    check: LoadCheck | None = None

    @property
    def rules(self) -> BatchRules:
        """What the model's rows may share."""
        return self.engine.rules

    @property
    def awaits_rows(self) -> bool:
        """Whether rows keep the model from what its check has found."""
        return self.check is not None and self.check.has_news and len(self.engine) > 0

    def settle_check(self) -> None:
        """Apply what the check has found so far, unless rows run by the rules until now."""
        if (check := self.check) is None or len(self.engine):
            return
        self.check = None if check.has_ended else check
        if (rules := check.take_rules()) is not None:
            self.engine.rules = rules
            log_rules(self.info.id, rules)


@dataclass(slots=True)
class LoadedEmbedder:
    """One loaded embedding model or reranker."""

    info: ModelInfo
    engine: EmbeddingEngine
    config: ModelConfig
    rules: BatchRules


AnyLoadedModel = LoadedModel | LoadedEmbedder


def read_slice(model: nn.Module, weights: list[mx.array]) -> None:
    """Read some weights of this model from its files."""
    mx.eval(weights)


def build_modules(path: Path, *, trusted: bool) -> nn.Module:
    """The model of a folder, by mlx-lm; `trusted`: by the folder's own code, if it has some.

    Raises:
        ValueError: its code ended the process, as where a package is missing.
        Exception: any other error of mlx-lm.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), folder_for_mlx_lm(path) as folder:
            model, _ = load_model(folder, lazy=True, trust_remote_code=trusted)
    except SystemExit as error:
        # mlx-lm's module prints why before it exits.
        why = f": {printed.getvalue()}" if printed.getvalue() else ""
        raise ValueError(f"its code ended the process with {error.code}{why}") from error
    return model


def build_whole(config: ModelConfig) -> nn.Module:
    """The model of a configuration; raises as `build_modules`."""
    return build_modules(config.path, trusted=config.source.trust_remote_code)


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What makes the parts of a model that generates: by default those of one process.

    `shares` is over how many processes its weights are distributed, `split_of` tells how.
    """

    build: Callable[[ModelConfig], nn.Module] = build_whole
    read: Callable[[nn.Module, list[mx.array]], None] = read_slice
    make_engine: Callable[..., Engine] = Engine
    make_cache: Callable[[int, DiskStore | None], PrefixCache] = PrefixCache
    split_of: Callable[[nn.Module], Split | None] = lambda model: None
    shares: int = 1


ONE_PROCESS = ModelParts()


class WeightLoad:
    """One load in progress: call `advance` until it returns True, then `finish`.

    Once the weights are read, the model is checked: `advance` makes one step of it a call.
    """

    def __init__(
        self,
        config: ModelConfig,
        configure: Configure,
        prompt_cache: PrefixCache,
        check_store: CheckStore,
        parts: ModelParts = ONE_PROCESS,
    ) -> None:
        self.config = config
        self._parts = parts
        self.done_bytes = 0
        self.total_bytes = config.file_bytes
        self._configure = configure
        self._prompt_cache = prompt_cache
        self._check_store = check_store
        self._check: LoadCheck | None = None
        self._check_ended = False
        self._curve = CostCurve()
        self._read_s = 0.0
        self._started_at = time.monotonic()
        self._model: nn.Module | None = None
        self._draft: DraftModel | None = None
        self._slices: Iterator[list[mx.array]] = iter(())

    def advance(self) -> bool:
        """Build the model at the first call, then read one slice a call; True if all is read.

        Raises:
            Exception: any error of mlx-lm or MLX for damaged files or an unknown model.
        """
        started_at = time.monotonic()
        if self._model is None:
            self._build_model()
        elif (weights := next(self._slices, None)) is not None:
            self._parts.read(self._model, weights)
            self.done_bytes += sum(array.nbytes for array in weights)
        else:
            return self._advance_check(self._model)
        self._read_s += time.monotonic() - started_at
        return False

    def _advance_check(self, model: nn.Module) -> bool:
        """Begin the check, or make a step of it; True if it has ended or has taken its time."""
        if self._check is None:
            self._check = LoadCheck(
                model,
                self._check_store,
                self.config.content_key,
                name=self.config.id,
                context_tokens=self.config.context_length,
                curve=self._curve,
                speculation=self.config.source.speculation,
                vocabulary_size=self.config.vocabulary_size,
                limits=prefill_limits_of(self._configure),
                load_s=self._read_s,
                make_engine=self._parts.make_engine,
                make_cache=self._parts.make_cache,
                kv_bits=self.config.source.kv_bits,
            )
            return False
        self._check_ended = self._check.advance()
        return self._check_ended or self._check.is_overdue

    def finish(self) -> LoadedModel:
        """The loaded model; called after `advance` has returned True."""
        assert self._model is not None
        assert self._check is not None
        configure, config = self._configure, self.config
        # It is not to be set again.
        self._check.take_rules()
        problems = [*config.problems, *self._settle_draft(self._check.rules)]
        engine = self._parts.make_engine(
            self._model,
            max_running=configure.max_running,
            prefill=prefill_limits_of(self._configure),
            name=config.content_key,
            prompt_cache=self._prompt_cache,
            rules=self._check.rules,
            compiled_sampling=configure.compiled_sampling,
            kv_bits=config.source.kv_bits,
            speculation=self._make_speculation(),
            curve=self._curve,
        )
        log_rules(config.id, engine.rules)
        if (finding := engine.quantisation.finding) is not None:
            logger.warning("%s: kv_quantisation: %s", config.id, finding)
        prompts = config.prompts
        variables, traits = prompts.template.variables, prompts.template.traits
        info = msgspec.structs.replace(
            describe_model(config, self.total_bytes, self._started_at),
            problems=problems,
            has_chat_template=prompts.has_chat_template,
            template_variables=variables.names,
            reasoning_effort=variables.effort is not None,
            thinks=variables.thinks,
            fill_in_middle=prompts.fill_in_middle is not None,
            system_messages=traits.systems,
            leading_systems=traits.leading_systems,
            inner_systems=traits.inner_systems,
            call_syntaxes=[syntax.name for syntax in config.parsers.syntaxes],
            reasoning_markers=config.parsers.reasoning_markers,
            kv=engine.quantisation.facts,
            split=self._parts.split_of(self._model),
            draft=None if self._draft is None else self._draft.facts,
        )
        return LoadedModel(info, engine, config, None if self._check_ended else self._check)

    def _settle_draft(self, rules: BatchRules) -> list[str]:
        """Measure the draft model, or free it where no drafts are verified; why it is not used."""
        if self._draft is None:
            return []
        if rules.verifies_drafts or not self._check_ended:
            self._draft.measure()
            return []
        self.total_bytes, self._draft = self.total_bytes - self._draft.facts.weight_bytes, None
        return [f"its draft_model is not used: {rules.undrafted or SPECULATION_OFF}"]

    def _make_speculation(self) -> Speculation | None:
        """The speculation of a model whose passes cost what the curve says; None if it is off."""
        if self.config.source.speculation == "off":
            return None
        kv_cost = None if self._draft is None else self._draft.kv_cost
        return Speculation(PassCosts(self._curve), self._draft, kv_cost)

    def _build_model(self) -> None:
        """Build the model's modules; their arrays are read lazily."""
        model = self._parts.build(self.config)
        if self.config.source.adapter_path is not None:
            model = load_adapters(model, self.config.source.adapter_path)
            model.eval()
        weights: list[mx.array] = [array for _, array in tree_flatten(model.parameters())]
        if (draft := self.config.draft) is not None:
            modules = build_modules(draft.path, trusted=False)
            self._draft = DraftModel(modules, self.config.vocabulary_size, draft.name)
            weights += self._draft.weights
        self.total_bytes = sum(array.nbytes for array in weights)
        self._slices = slice_weights(weights)
        self._model = model


class EmbeddingLoad:
    """The load of an embedding model or a reranker, with the interface of `WeightLoad`."""

    def __init__(self, config: ModelConfig, configure: Configure) -> None:
        self.config = config
        self.done_bytes = 0
        self.total_bytes = config.file_bytes
        self._configure = configure
        self._started_at = time.monotonic()
        self._model: EmbeddingModel | None = None
        self._rules = BatchRules()
        self._slices: Iterator[list[mx.array]] = iter(())

    def advance(self) -> bool:
        """Build the model at the first call, then read one slice a call; True if all is read.

        The last call compares the results of a batch with those of single texts.

        Raises:
            Exception: any error of MLX for damaged files or an unknown model.
        """
        if self._model is None:
            self._build_model()
        elif (weights := next(self._slices, None)) is not None:
            mx.eval(weights)
            self.done_bytes += sum(array.nbytes for array in weights)
        else:
            self._rules = check_batches(
                computation_of(self._model), self.config.vocabulary_size, self.config.context_length
            )
            return True
        return False

    def finish(self) -> LoadedEmbedder:
        """The loaded model; called after `advance` has returned True."""
        assert self._model is not None
        config = self.config
        log_rules(config.id, self._rules)
        limits = prefill_limits_of(self._configure, longest_s=CALL_S)
        engine = EmbeddingEngine(
            computation_of(self._model),
            TextBudget(limits, self._model.cost),
            batched=self._rules.batching != "none",
            sliced=self._rules.slices_prompts,
        )
        info = describe_model(config, self.total_bytes, self._started_at)
        return LoadedEmbedder(info=info, engine=engine, config=config, rules=self._rules)

    def _build_model(self) -> None:
        """Build the model's modules; their arrays are read lazily."""
        assert self.config.texts is not None
        self._model = load_embedding_model(
            self.config.path,
            self.config.texts.facts,
            trusted=self.config.source.trust_remote_code,
        )
        weights = self._model.arrays()
        self.total_bytes = sum(array.nbytes for array in weights)
        self._slices = slice_weights(weights)


def computation_of(model: EmbeddingModel) -> Compute:
    """What computes the vectors of an embedding model, and the scores of a reranker."""
    layers = Layers.of(model.modules)

    def compute(rows: list[list[int]], part_tokens: float | None = None) -> deque[mx.array]:
        if model.facts.kind == "embedding":
            return in_parts(layers, lambda: model.embed(rows), part_tokens=part_tokens)
        return in_parts(layers, lambda: model.score(rows)[:, None], part_tokens=part_tokens)

    return compute


def describe_model(config: ModelConfig, weight_bytes: int, started_at: float) -> ModelInfo:
    """The facts of a loaded model of any kind."""
    return ModelInfo(
        id=config.id,
        family=config.family,
        context_length=config.context_length,
        vocabulary_size=config.vocabulary_size,
        weight_bytes=weight_bytes,
        load_ms=(time.monotonic() - started_at) * MS_PER_S,
        capabilities=config.capabilities,
        problems=list(config.problems),
        has_chat_template=False,
    )


def prefill_limits_of(configure: Configure, longest_s: float = math.inf) -> PrefillLimits:
    """The bounds of a slice of prefill."""
    return PrefillLimits(
        max_tokens=configure.prefill_step_tokens,
        max_rows=configure.prefill_rows,
        slice_s=min(configure.prefill_slice_s, longest_s),
        reserve_bytes=configure.prefill_reserve_bytes,
    )


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
