"""What a model's requests are taken to ask for where they say nothing."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from service.schema.parameters import (
    GenerationRequest,
    MinP,
    Penalty,
    Temperature,
    TokenCount,
    TopK,
    TopP,
)

AskedT = TypeVar("AskedT", bound=GenerationRequest)


class SamplingDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of requests, by their own names; None leaves OpenAI's default."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    max_tokens: TokenCount | None = None


NONE = SamplingDefaults()


def fill(asked: AskedT, defaults: SamplingDefaults) -> AskedT:
    """The request with what it leaves open as the model's settings have it."""
    given = {
        name: value
        for name, value in msgspec.structs.asdict(defaults).items()
        if value is not None and getattr(asked, name, None) is None
    }
    # A conversation may say it by the newer name.
    if getattr(asked, "max_completion_tokens", None) is not None:
        given.pop("max_tokens", None)
    return msgspec.structs.replace(asked, **given) if given else asked
