"""What a model's rows share, as far as its check at load allows it."""

from __future__ import annotations

import msgspec

from protocol.batching import Batching, BatchRules
from protocol.model_states import ModelInfo


class ModelBatching(msgspec.Struct, frozen=True, kw_only=True):
    """What the requests of a model share on the device.

    `rows` is "full" (prefill and decode), "decode" (each prompt is prefilled apart) or "none" (each
    request is a batch of its own, and all are stepped in turn). Without `prompt_cache` nothing is
    kept between requests. Without `prompt_slices` a prompt is computed at once. `reasons` say why
    something is not shared: it would change the tokens. They also name what is shared but was not
    checked: what lies beyond a window of more than 1,024 tokens. What is `unchecked` is not used
    until it is checked, which goes on while the model is idle.
    """

    rows: Batching
    prompt_cache: bool
    prompt_slices: bool
    reasons: list[str] = []
    unchecked: list[str] = []


def describe_batching(rules: BatchRules | None) -> ModelBatching | None:
    """The batching of a loaded model; None for a model that is not loaded."""
    if rules is None:
        return None
    return ModelBatching(
        rows=rules.batching,
        prompt_cache=rules.reuses_prefixes,
        prompt_slices=rules.slices_prompts,
        reasons=rules.findings,
        unchecked=rules.unchecked,
    )


class ModelSpeculation(msgspec.Struct, frozen=True):
    """Whether drafts of a model's tokens are verified, and why not."""

    on: bool
    reason: str = ""


def describe_speculation(rules: BatchRules | None) -> ModelSpeculation | None:
    """The speculation of a loaded model; None for a model that is not loaded."""
    if rules is None:
        return None
    off = rules.undrafted or "the setting is off, or the model does not generate"
    return ModelSpeculation(rules.verifies_drafts, "" if rules.verifies_drafts else off)


class DraftModelInUse(msgspec.Struct, frozen=True):
    """The model that drafts for another, and the bytes of its weights."""

    name: str
    weight_bytes: int


def describe_draft_model(info: ModelInfo | None) -> DraftModelInUse | None:
    """The draft model of a loaded model; None where there is none."""
    if info is None or info.draft is None:
        return None
    return DraftModelInUse(info.draft.name, info.draft.weight_bytes)
