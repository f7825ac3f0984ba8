"""A model's default parameters for requests that do not set them."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from protocol.model_states import ModelDefaults
from service.schema.models import DefaultParameters
from service.schema.parameters import (
    MinP,
    Penalty,
    RepetitionPenalty,
    SamplingRequest,
    Temperature,
    TokenCount,
    TopK,
    TopP,
)

RequestT = TypeVar("RequestT", bound=SamplingRequest)


class SamplingDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Default parameters, by the names that requests use; None keeps the model's or OpenAI's."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    max_tokens: TokenCount | None = None


NO_DEFAULTS = SamplingDefaults()


def combine(configured: SamplingDefaults, model: ModelDefaults) -> DefaultParameters:
    """The defaults in effect: the configured ones, below them the model's, below them OpenAI's."""
    values = {
        name: value
        for layer in (model, configured)
        for name, value in msgspec.structs.asdict(layer).items()
        if value is not None
    }
    return DefaultParameters(**values)


def fill(request: RequestT, defaults: SamplingDefaults) -> RequestT:
    """A copy of the request with `defaults` for the parameters that it does not set."""
    filled = {
        name: value
        for name, value in msgspec.structs.asdict(defaults).items()
        if value is not None and name != "max_tokens" and getattr(request, name) is None
    }
    unlimited = all(getattr(request, name) is None for name in request.limits)
    if defaults.max_tokens is not None and unlimited:
        filled[request.limits[-1]] = defaults.max_tokens
    return msgspec.structs.replace(request, **filled) if filled else request
