"""GET /v1/capabilities: each model's support of each parameter, from the validator's table."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Literal

import msgspec

from protocol.batching import BatchRules
from protocol.model_states import ModelInfo, ModelState
from protocol.ranks import Split
from service.schema.annotations import LABELS
from service.schema.batching import (
    DraftModelInUse,
    ModelBatching,
    ModelSpeculation,
    describe_batching,
    describe_draft_model,
    describe_speculation,
)
from service.schema.parameter_table import Parameter, Requirement, parameters_of
from service.schema.settings_in_force import SettingsInForce

# What equal answers mean, by whether keys and values are quantised.
EQUALITY = {
    False: "An answer is that of the model alone, up to the rounding of the device.",
    True: "Answers differ from those of full precision. An answer in a batch, from the prompt "
    "cache or resumed is that of the model alone with the same bits, up to rounding: rounding that "
    "changes a code counts as much as the step between two codes, so tokens may differ where the "
    "first two are nearly as likely.",
}

MaxTokensRule = Literal["ceiling", "strict"]
OPERATOR: Literal["ignored (operator)"] = "ignored (operator)"
# Turned off, they have no effect on a model that does not think.
THINKING_VARIABLES = ("enable_thinking", "thinking")


class Capability(msgspec.Struct, frozen=True, omit_defaults=True):
    """The support of one parameter.

    - `honoured`: the parameter works as documented.
    - `label`: the parameter is metadata or a hint and has no effect on the answer. Where that is
      because of the model, the header `x-mlxd-ignored` names it.
    - `refused`: 400, unless the value is one of `neutral`, which have no effect.
    - `depends`: unknown until the model is loaded.
    - `ignored (operator)`: as refused, but other values are ignored (setting `soften`).
    """

    support: Literal["honoured", "label", "refused", "depends", "ignored (operator)"]
    neutral: list[Any] = []


class KVCacheCapability(msgspec.Struct, frozen=True, kw_only=True):
    """The quantisation of the KV cache; `asked` is the setting.

    `bits` are those of the `layers` that are quantised, of `of_layers`; all three are null while
    the model is not loaded. `reason` says why it is so, `equality` what equal answers then mean.
    """

    asked: str
    quantised: bool = False
    bits: int | None = None
    layers: int | None = None
    of_layers: int | None = None
    reason: str
    equality: str


class SystemMessages(msgspec.Struct, frozen=True):
    """Where the system messages of a conversation are in the prompt.

    `leading` are those at the beginning. A later one that is not kept in its place as a system
    message is marked as `<system-reminder>` in the message before it.
    """

    leading: Literal["kept", "joined", "in the first user message"]
    inner: Literal["kept", "in the message before"]


class ModelCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """One model: its parameters by endpoint, and what its chat template does.

    `system_messages` is null while the model is not loaded, or if it has no chat template.
    `labels` are the keys that clients add to messages and tools, by place, with no effect.
    `batching` and `speculation` are null while the model is not loaded, `draft_model` also where
    it has none.
    `split` is how several ranks compute it together: null for one, or while it is not loaded.
    `max_tokens_rule`: a `max_tokens` above what the context and the memory hold is cut to it
    (`ceiling`), or refused (`strict`, setting `strict_max_tokens`).
    `call_syntaxes` are the names of those in which the model writes tool calls; `generic_json`
    stands for JSON in tags, which its prompts ask for. `reasoning_markers` begin and end its
    reasoning. `problems` say what was assumed of its folder, or cannot be used, as the log does.
    All three are empty until the model is loaded.
    """

    id: str
    object: Literal["capabilities"] = "capabilities"
    loaded: bool
    template_variables: list[str]
    system_messages: SystemMessages | None
    call_syntaxes: list[str]
    reasoning_markers: list[str]
    problems: list[str]
    kv_cache: KVCacheCapability
    split: Split | None
    batching: ModelBatching | None
    speculation: ModelSpeculation | None
    draft_model: DraftModelInUse | None
    labels: dict[str, list[str]]
    max_tokens_rule: MaxTokensRule
    endpoints: dict[str, dict[str, Capability]]


class CapabilitiesList(msgspec.Struct, frozen=True, kw_only=True):
    """All configured models, and the settings in force: null where the caller may not see them."""

    object: Literal["list"] = "list"
    data: list[ModelCapabilities]
    settings: SettingsInForce | None = None


def describe_capabilities(
    state: ModelState,
    endpoints: Mapping[str, type[msgspec.Struct]],
    kv_quantisation: str = "off",
    softened: AbstractSet[str] = frozenset(),
    max_tokens_rule: MaxTokensRule = "ceiling",
) -> ModelCapabilities:
    """The capabilities of a model, as far as its state is known.

    `endpoints` are the structs of requests, by path.
    """
    return ModelCapabilities(
        id=state.id,
        loaded=state.info is not None,
        template_variables=state.info.template_variables if state.info else [],
        system_messages=describe_systems(state.info),
        call_syntaxes=state.info.call_syntaxes if state.info else [],
        reasoning_markers=state.info.reasoning_markers if state.info else [],
        problems=state.info.problems if state.info else [],
        kv_cache=describe_kv_cache(kv_quantisation, state.info),
        split=state.info.split if state.info else None,
        batching=describe_batching(state.rules),
        speculation=describe_speculation(state.rules),
        draft_model=describe_draft_model(state.info),
        labels={place: list(keys) for place, keys in LABELS.items()},
        max_tokens_rule=max_tokens_rule,
        endpoints={
            path: {
                name: soften(name, to_capability(parameter, state), softened)
                for name, parameter in parameters_of(request).items()
                if name.partition(".")[0] in request.__struct_fields__
            }
            for path, request in endpoints.items()
        },
    )


def describe_kv_cache(asked: str, model: ModelInfo | None) -> KVCacheCapability:
    """The quantisation of this model's keys and values; `asked` is what is set for it."""
    if model is None:
        reason = "it is known once the model is loaded"
        return KVCacheCapability(asked=asked, reason=reason, equality=EQUALITY[asked != "off"])
    kv, quantised = model.kv, model.kv.layers > 0
    reason = "kv_quantisation is off" if asked == "off" else "kv_quantisation asks for it"
    return KVCacheCapability(
        asked=asked,
        quantised=quantised,
        bits=kv.bits,
        layers=kv.layers,
        of_layers=kv.of_layers,
        reason=kv.finding or reason,
        equality=EQUALITY[quantised],
    )


def describe_systems(model: ModelInfo | None) -> SystemMessages | None:
    """Where this model's template puts system messages."""
    if model is None or not model.has_chat_template:
        return None
    if not model.system_messages:
        leading: Literal["kept", "joined", "in the first user message"] = (
            "in the first user message"
        )
    else:
        leading = "kept" if model.leading_systems else "joined"
    return SystemMessages(leading, "kept" if model.inner_systems else "in the message before")


def to_capability(parameter: Parameter, state: ModelState) -> Capability:
    """The model's support of the parameter, as far as its state is known."""
    if parameter.requires is None:
        return Capability(parameter.support, list(parameter.no_op_values))
    if (model := state.info) is None:
        return Capability("depends")
    if meets(model, state.rules, parameter.requires):
        return Capability("honoured")
    match parameter.requires:
        case "reasoning_effort" if not model.thinks:
            # There is no effort to spend, so the parameter has no effect.
            return Capability("label")
        case "reasoning_markers" | "speculation":
            # There is no reasoning to end, and drafts save time alone: the worker says that it
            # ignores the parameter.
            return Capability("label")
        case "template_variables" if not model.thinks:
            return Capability("refused", [{name: False} for name in THINKING_VARIABLES])
        case _:
            return Capability("refused")


def soften(name: str, capability: Capability, softened: AbstractSet[str]) -> Capability:
    """The capability, where the operator has parameters ignored that a model cannot honour."""
    if name in softened and capability.support == "refused":
        return Capability(OPERATOR, capability.neutral)
    return capability


def meets(model: ModelInfo, rules: BatchRules | None, requirement: Requirement) -> bool:
    """Whether the model meets the requirement of a parameter; `rules` are of its check so far."""
    match requirement:
        case "chat_template":
            return model.has_chat_template
        case "fill_in_middle":
            return model.fill_in_middle
        case "template_variables":
            return bool(model.template_variables)
        case "reasoning_effort":
            return model.reasoning_effort
        case "reasoning_markers":
            return bool(model.reasoning_markers)
        case "speculation":
            return rules is not None and rules.verifies_drafts
