"""The check finds what mlx-lm computes wrongly in a batch, and holds nothing back that is right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import le
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map
from mlx_lm.models.cache import BatchRotatingKVCache, KVCache, RotatingKVCache
from mlx_lm.utils import load_model

from protocol.batching import Batching, BatchRules
from tests.models import hybrid, unbatched
from tests.models.architectures.making import build
from tests.models.architectures.table import config_of
from tests.models.failing import FailingModel
from tests.models.families import SLIDING_WINDOW_TOKENS as WINDOW
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillBudget, PrefillLimits
from worker.selfcheck.draft_check import OTHER_CACHES
from worker.selfcheck.model_check import UNCHECKED_DRAFTS, ModelCheck

LIMITS = PrefillLimits(max_tokens=512)
LONG_S = 600.0
TOKEN_S = 0.1
ALL = BatchRules()
BATCHING = ("none", "decode", "full")
UNCHECKED = ["a prompt in slices", "rows in one batch", "cached prefixes"]


def start(
    model: nn.Module,
    budget_s: float = LONG_S,
    make_engine: Callable[..., Engine] = Engine,
    limits: PrefillLimits = LIMITS,
) -> ModelCheck:
    return ModelCheck(
        model,
        vocabulary_size=500,
        limits=limits,
        min_budget_s=budget_s,
        make_engine=make_engine,
    )


def check(
    model: nn.Module,
    make_engine: Callable[..., Engine] = Engine,
    limits: PrefillLimits = LIMITS,
) -> BatchRules:
    """The rules of a check that has all the time it needs; none before allowed more."""
    running = start(model, make_engine=make_engine, limits=limits)
    before = [running.rules]
    while not running.advance():
        before.append(running.rules)
    assert not running.is_overdue
    allowed = zip(*map(allowed_by, before), strict=True)
    assert all(map(le, map(max, allowed), allowed_by(running.rules)))
    return running.rules


def allowed_by(rules: BatchRules) -> tuple[int, bool, bool]:
    """What rows may share; more is larger."""
    return BATCHING.index(rules.batching), rules.reuses_prefixes, rules.slices_prompts


@pytest.mark.parametrize("family", ["llama", "qwen", "gemma"])
def test_models_that_batch_rightly_share_everything(
    family: str, model_paths: dict[str, Path]
) -> None:
    model, _ = load_model(model_paths[family])
    assert check(model) == ALL


def test_a_hybrid_model_that_heeds_lengths_shares_everything() -> None:
    assert check(hybrid.make_hybrid()) == ALL


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("family", ["llama", "qwen", "gemma"])
def test_the_rounding_of_shorter_numbers_holds_nothing_back(
    family: str, dtype: mx.Dtype, model_paths: dict[str, Path]
) -> None:
    model, _ = load_model(model_paths[family])
    model.update(tree_map(lambda array: array.astype(dtype), model.parameters()))
    assert check(model) == ALL


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_quantisation_holds_nothing_back(bits: int, llama_path: Path) -> None:
    model, _ = load_model(llama_path)
    nn.quantize(model, group_size=32, bits=bits)
    assert check(model) == ALL


@pytest.mark.parametrize(
    "model_type",
    [
        "mamba",
        "olmo_hybrid",
        *(pytest.param(each, marks=pytest.mark.long) for each in ("jamba", "nemotron_h", "rwkv7")),
        pytest.param("recurrent_gemma", marks=pytest.mark.long),
    ],
)
def test_a_model_whose_prompts_leak_into_each_other_prefills_them_apart(model_type: str) -> None:
    rules = check(unbatched.make_model(model_type))
    assert (rules.batching, rules.reuses_prefixes, rules.slices_prompts) == ("decode", True, True)
    [finding] = rules.findings
    assert finding.startswith("Prompts of unlike lengths are prefilled apart: log-probabilities")
    assert rules.unchecked == []


@pytest.mark.parametrize("model_type", ["llama4", "deepseek_v41", "gpt_bigcode"])
def test_a_model_that_cannot_be_batched_decodes_each_row_alone(model_type: str) -> None:
    rules = check(unbatched.make_model(model_type))
    assert (rules.batching, rules.slices_prompts) == ("none", True)
    assert rules.findings[1].startswith("Each row is decoded alone: the model fails (ValueError")


def test_caches_that_cannot_be_copied_are_found() -> None:
    rules = check(unbatched.make_model("deepseek_v41"))
    assert not rules.reuses_prefixes
    assert rules.findings[-1].startswith("Nothing is kept in the prompt cache: AttributeError")


class Altered:
    """A model that is wrong where `alter` changes its caches before a call."""

    def __init__(self, inner: nn.Module, kind: str) -> None:
        self.inner, self._kind = inner, kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, inputs: mx.array, cache: list[Any]) -> mx.array:
        rows, tokens = inputs.shape
        if self._kind == "slices" and tokens > 1:
            # What came before is forgotten.
            cache[:] = self.inner.make_cache()
        logits: mx.array = self.inner(inputs, cache=cache)
        if self._kind == "rows" and rows > 1 and tokens == 1:
            # Each row gets what the first one has.
            logits = mx.broadcast_to(logits[:1], logits.shape)
        return logits


def test_a_model_whose_slices_differ_computes_prompts_whole() -> None:
    rules = check(Altered(unbatched.make_model("jamba"), "slices"))
    assert not rules.slices_prompts
    assert any(each.startswith("Prompts are computed in one slice") for each in rules.findings)


def test_a_model_whose_decode_batches_are_wrong_decodes_each_row_alone(llama_path: Path) -> None:
    rules = check(Altered(load_model(llama_path)[0], "rows"))
    assert (rules.batching, rules.reuses_prefixes, rules.slices_prompts) == ("none", True, True)
    assert len(rules.findings) == 2


class SlowBudget(PrefillBudget):
    """The budget of a device that takes `TOKEN_S` for each token of a slice."""

    def record_step(
        self, elapsed_s: float, decoding_rows: int, computed_tokens: int, context: int = 0
    ) -> None:
        elapsed_s += TOKEN_S * computed_tokens
        super().record_step(elapsed_s, decoding_rows, computed_tokens, context)


@pytest.mark.parametrize("family", ["afm7", "plamo3"])
def test_what_is_found_does_not_depend_on_the_devices_speed(family: str) -> None:
    slow = partial(Engine, make_budget=SlowBudget)
    found = check(build(config_of(family)))
    assert check(build(config_of(family)), slow) == found != ALL


@pytest.mark.parametrize(
    ("family", "batching", "limits"),
    [
        ("mamba", "decode", PrefillLimits(512, max_rows=1)),
        ("mamba", "decode", PrefillLimits(512, reserve_bytes=1)),
        ("gemma2", "none", PrefillLimits(8)),
    ],
)
def test_what_is_found_does_not_depend_on_what_a_slice_may_hold(
    family: str, batching: Batching, limits: PrefillLimits
) -> None:
    # A worker is restarted with less, and what is found may be kept for one with more.
    model = build(config_of(family))
    rules = check(model)
    assert rules.batching == batching
    assert check(model, limits=limits) == rules


def test_slices_that_begin_beyond_the_window_are_checked() -> None:
    # Its mask is one token wider than its cache, which shows only there.
    rules = check(build(config_of("plamo3")))
    assert not rules.slices_prompts
    [finding] = [each for each in rules.findings if each.startswith("Prompts are computed in one")]
    assert finding.endswith("beyond the window.")


class BatchBeyondWindow(BatchRotatingKVCache):  # type: ignore[misc]
    """A batch that loses its rows where one is beyond the window, as `fault` says."""

    fault = ""
    keys: mx.array

    @classmethod
    def merge(cls, caches: list[RotatingKVCache]) -> Any:
        merged = super().merge(caches)
        if cls.fault == "merge" and len(caches) > 1 and max(c.offset for c in caches) > WINDOW:
            merged.keys = mx.zeros_like(merged.keys)
        return merged

    def extend(self, other: BatchRotatingKVCache) -> None:
        if self.fault == "extend" and self.rotated:
            self.keys = mx.zeros_like(self.keys)
        super().extend(other)

    def extract(self, idx: int) -> Any:
        cache = super().extract(idx)
        cache.__class__ = BatchedSo
        return cache


class BatchedSo(RotatingKVCache):  # type: ignore[misc]
    """A cache of one row of such batches."""

    @classmethod
    def merge(cls, caches: list[RotatingKVCache]) -> Any:
        return BatchBeyondWindow.merge(caches)


class WithFaults(Altered):
    """A model with these caches."""

    def make_cache(self) -> list[Any]:
        caches = self.inner.make_cache()
        kinds = {RotatingKVCache: lambda: BatchedSo(WINDOW), KVCache: KVCache}
        return [kinds[type(cache)]() for cache in caches]


@pytest.mark.parametrize("fault", ["", "extend", "merge"])
def test_rows_are_batched_and_cached_with_one_that_is_beyond_the_window(
    fault: str, gemma_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchBeyondWindow, "fault", fault)
    rules = check(WithFaults(load_model(gemma_path)[0], "none"))
    expected = {"": ("full", True), "extend": ("none", True), "merge": ("full", False)}
    assert (rules.batching, rules.reuses_prefixes) == expected[fault]


def check_with_drafts(model: nn.Module) -> BatchRules:
    running = ModelCheck(
        model, vocabulary_size=500, limits=LIMITS, min_budget_s=LONG_S, drafts=True
    )
    assert running.rules.undrafted == UNCHECKED_DRAFTS
    assert running.rules.unchecked[-1] == "drafts"
    while not running.advance():
        pass
    return running.rules


def test_drafts_are_verified_where_several_places_give_what_one_gives(llama_path: Path) -> None:
    assert check_with_drafts(load_model(llama_path)[0]) == BatchRules(verifies_drafts=True)


def test_drafts_are_verified_only_where_all_caches_are_of_plain_attention() -> None:
    rules = check_with_drafts(unbatched.make_model("jamba"))
    assert (rules.verifies_drafts, rules.undrafted) == (False, OTHER_CACHES)


@pytest.mark.parametrize(
    ("context_tokens", "is_named"), [(None, True), (4096, True), (2048, False)]
)
def test_a_window_that_is_too_long_to_be_checked_is_named_and_switches_nothing_off(
    context_tokens: int | None, is_named: bool
) -> None:
    config = {**config_of("gemma3_text"), "sliding_window": 2048}
    running = ModelCheck(
        build(config),
        vocabulary_size=500,
        limits=LIMITS,
        min_budget_s=LONG_S,
        context_tokens=context_tokens,
    )
    while not running.advance():
        pass
    finding = (
        "Rows beyond the window of 2048 tokens are not checked: they share what those within it "
        "share."
    )
    assert running.rules == BatchRules(findings=[finding] if is_named else [])


def test_a_model_that_always_fails_shares_nothing(llama_path: Path) -> None:
    model = FailingModel(load_model(llama_path)[0], TypeError("broken"), lambda inputs: True)
    model.is_intact = True
    running = start(model)
    model.is_intact = False
    while not running.advance():
        pass
    assert running.rules == BatchRules(
        "none", False, False, ["The model fails for one row alone: TypeError: broken."], []
    )


def test_what_there_was_no_time_for_is_not_allowed_until_it_is_checked(llama_path: Path) -> None:
    running = start(load_model(llama_path)[0], budget_s=0.0)
    assert not running.advance()
    assert running.is_overdue
    assert running.rules == BatchRules("none", False, False, [], UNCHECKED)
    while not running.advance():
        pass
    assert running.rules == ALL


def test_nothing_is_allowed_until_a_window_is_checked_too(gemma_path: Path) -> None:
    running = start(load_model(gemma_path)[0], budget_s=0.0)
    while not running.advance():
        assert running.rules == BatchRules("none", False, False, [], UNCHECKED)
    assert running.rules == ALL
