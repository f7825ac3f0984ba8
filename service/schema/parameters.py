"""The parameters that both endpoints share, and those that are not honoured yet.

Every parameter that OpenAI documents is a field here, in `chat` or in
`completions`. One that is not honoured stands in `NEUTRAL` with the values that
change nothing; any other value is refused, so that nothing is ever ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from service.errors import InvalidRequest

MAX_TOKENS = 2**24
MAX_TOP_K = 2**20
MAX_STOPS = 4
MAX_STOP_CHARS = 1024
SEED_MIN, SEED_MAX = -(2**63), 2**63 - 1

TokenCount = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
Temperature = Annotated[float, Meta(ge=0, le=2, description="0 is greedy.")]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=0, le=MAX_TOP_K, description="0 is off. Not OpenAI's.")]
MinP = Annotated[float, Meta(ge=0, le=1, description="0 is off. Not OpenAI's.")]
Seed = Annotated[int, Meta(ge=SEED_MIN, le=SEED_MAX)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
Choices = Annotated[int, Meta(ge=1, le=128)]
StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
StopStrings = Annotated[list[StopString], Meta(min_length=1, max_length=MAX_STOPS)]
MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16)]

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0.0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0.0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "stream_options.include_obfuscation": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameter -> its values that change nothing. Null, which is leaving it out, is one always."""


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be asked of any text generation."""

    model: str
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    seed: Seed | None = None
    stop: StopString | StopStrings | None = None
    max_tokens: TokenCount | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    n: Choices | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings as a list, empty where none was given."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with an event that carries the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self) -> None:
        """Refuse what the types alone cannot.

        Raises:
            InvalidRequest: it names the parameter.
        """
        for name in NEUTRAL:
            _refuse_unsupported(name, _value_at(self, name))
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "`stream_options` is only allowed when `stream` is true.",
                param="stream_options",
                code="invalid_value",
            )


def _refuse_unsupported(name: str, value: object) -> None:
    """Refuse a `value` that would change the answer by a parameter not honoured yet."""
    neutral = NEUTRAL[name]
    if value is None or any(_same(value, harmless) for harmless in neutral):
        return
    allowed = [msgspec.json.encode(harmless).decode() for harmless in neutral]
    advice = f", other than as {' or '.join(allowed)}" if allowed else ""
    raise InvalidRequest(
        f"`{name}` is not supported by this server{advice}.",
        param=name,
        code="unsupported_parameter",
    )


def _same(value: object, neutral: object) -> bool:
    return type(value) is type(neutral) and value == neutral


def _value_at(request: object, name: str) -> object:
    """The value at a dotted `name`; None where the request has no such field."""
    value: object = request
    for part in name.split("."):
        value = getattr(value, part, None)
    return value
