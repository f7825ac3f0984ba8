"""GET /v1/capabilities: what each model does with each parameter, by the validator's table."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from protocol.messages import ModelInfo, ModelState
from service.schema.chat import ChatRequest
from service.schema.completions import CompletionRequest
from service.schema.parameters import GenerationRequest
from service.schema.support import PARAMETERS, Parameter, Requirement

# Can go when mlx-lm (0.32.2) can batch a QuantizedKVCache.
KV_REASON = "mlx-lm 0.32.2 batches no quantised KV caches: keys and values stay as computed"

ENDPOINTS: dict[str, type[GenerationRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}


class Capability(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is done with one parameter.

    `honoured`: it does what its documentation says. `label`: it names or hints something, and
    changes no answer by its nature. `refused`: 400, unless the value is one of `neutral`, which
    change nothing. `depends`: the model must be loaded before this is known.
    """

    support: Literal["honoured", "label", "refused", "depends"]
    neutral: list[Any] = []


class KVCacheCapability(msgspec.Struct, frozen=True):
    """How keys and values are kept; `asked` is the setting."""

    asked: str
    quantised: bool = False
    reason: str = KV_REASON


class ModelCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """One model: its parameters by endpoint, and what its chat template reads."""

    id: str
    object: Literal["capabilities"] = "capabilities"
    loaded: bool
    template_variables: list[str]
    kv_cache: KVCacheCapability
    endpoints: dict[str, dict[str, Capability]]


class CapabilitiesList(msgspec.Struct, frozen=True, kw_only=True):
    """All configured models."""

    object: Literal["list"] = "list"
    data: list[ModelCapabilities]


def describe_capabilities(state: ModelState, kv_quantisation: str = "off") -> ModelCapabilities:
    """What this model honours, as far as is known of it now."""
    return ModelCapabilities(
        id=state.id,
        loaded=state.info is not None,
        template_variables=state.info.template_variables if state.info else [],
        kv_cache=KVCacheCapability(kv_quantisation),
        endpoints={
            path: {
                name: to_capability(parameter, state.info)
                for name, parameter in PARAMETERS.items()
                if name.partition(".")[0] in request.__struct_fields__
            }
            for path, request in ENDPOINTS.items()
        },
    )


def to_capability(parameter: Parameter, model: ModelInfo | None) -> Capability:
    """What this model, of which nothing may be known yet, does with the parameter."""
    if parameter.requires is None:
        return Capability(parameter.support, list(parameter.no_op_values))
    if model is None:
        return Capability("depends")
    return Capability("honoured" if has(model, parameter.requires) else "refused")


def has(model: ModelInfo, need: Requirement) -> bool:
    """Whether the model has what the parameter needs."""
    match need:
        case "chat_template":
            return model.has_chat_template
        case "fill_in_middle":
            return model.fill_in_middle
        case "template_variables":
            return bool(model.template_variables)
        case "reasoning_effort":
            return model.reasoning_effort
