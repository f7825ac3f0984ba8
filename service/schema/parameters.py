"""The parameters that endpoints share, their bounds, and the rules between them.

Every parameter that OpenAI documents is a field here, in `chat` or in `completions`. The table
in `parameter_table` has the support of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from protocol.grammars import Grammar
from service.errors import InvalidRequest, excerpt
from service.schema.parameter_table import PARAMETERS, Parameter, refuse_unsupported
from service.schema.structured import (
    AnyFormat,
    StructuredOutputs,
    check_structure,
    to_grammar,
)

# Clients send this for no limit.
MAX_TOKENS = 2**31 - 1
MAX_TOP_K = 2**20
MAX_STOPS = 64
MAX_STOP_CHARS = 1024
# Of all stop strings together; the worker builds one automaton of them.
MAX_STOPS_CHARS = 16384
MAX_STOP_TOKENS = 64
MAX_BIASES = 4096
MAX_TOKEN_ID = 2**31 - 1
SEED_MIN, SEED_MAX = -(2**63), 2**63 - 1

TOKEN_ID = re.compile(r"[0-9]{1,10}")

TokenCount = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
Temperature = Annotated[float, Meta(ge=0, le=2, description="0 is greedy.")]
TopP = Annotated[float, Meta(ge=0, le=1, description="0 is greedy.")]
TopK = Annotated[
    int, Meta(ge=-1, le=MAX_TOP_K, description="0 and -1 are off. Not in OpenAI's API.")
]
MinP = Annotated[float, Meta(ge=0, le=1, description="0 is off. Not in OpenAI's API.")]
Seed = Annotated[int, Meta(ge=SEED_MIN, le=SEED_MAX)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepetitionPenalty = Annotated[
    float,
    Meta(gt=0, le=2, description="1 is off; the prompt's tokens count, too. Not in OpenAI's API."),
]
RepetitionContext = Annotated[
    int,
    Meta(
        ge=0,
        le=MAX_TOKENS,
        description="How many of the last tokens `repetition_penalty` counts; 0 is all. "
        "Not in OpenAI's API.",
    ),
]
MinTokens = Annotated[
    int,
    Meta(ge=0, le=MAX_TOKENS, description="The answer does not end before. Not in OpenAI's API."),
]
IgnoreEos = Annotated[
    bool, Meta(description="The model's stop tokens do not end the answer. Not in OpenAI's API.")
]
Priority = Annotated[
    int,
    Meta(
        ge=-MAX_TOKENS,
        le=MAX_TOKENS,
        description="Requests with a lower number come first; 0 is the default. The operator says "
        "how low it may be, 0 unless configured. Not in OpenAI's API.",
    ),
]
SkipSpecialTokens = Annotated[
    bool,
    Meta(
        description="Whether control tokens have no text in the answer (the default). "
        "Log-probabilities have them always. Not in OpenAI's API."
    ),
]
ReturnProgress = Annotated[
    bool,
    Meta(
        description="Chunks of a stream say how far the prefill is, in `prompt_progress`. "
        "llama.cpp's, not in OpenAI's API; without `stream` it has no effect."
    ),
]
TokenId = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
StopTokenIds = Annotated[
    list[TokenId], Meta(max_length=MAX_STOP_TOKENS, description="Not in OpenAI's API.")
]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Biases = Annotated[dict[str, Bias], Meta(max_length=MAX_BIASES)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
Choices = Annotated[int, Meta(ge=1, le=128)]
StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
StopStrings = Annotated[list[StopString], Meta(max_length=MAX_STOPS)]
MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a stream. With `continuous_usage_stats` (vLLM's) each event has the usage."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class SamplingRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of every endpoint that generates text.

    `parameters` is the table of the endpoint's parameters; `limits` are the names of those that
    limit the answer's tokens, the first that is set counts.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = PARAMETERS
    limits: ClassVar[tuple[str, ...]] = ("max_tokens",)

    model: str
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    seed: Seed | None = None
    stream: bool | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    repetition_context_size: RepetitionContext | None = None
    logit_bias: Biases | None = None
    min_tokens: MinTokens | None = None
    ignore_eos: IgnoreEos | None = None
    stop_token_ids: StopTokenIds | None = None
    skip_special_tokens: SkipSpecialTokens | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: Priority | None = None

    @property
    def grammar(self) -> Grammar | None:
        """The grammar that constrains the answer; None for free text."""
        return to_grammar(None, self.structured_outputs)

    @property
    def biases(self) -> dict[int, float]:
        """`logit_bias` by token id; valid after `check`."""
        return {int(token): bias for token, bias in (self.logit_bias or {}).items()}

    @property
    def choices(self) -> int:
        """The number of answers returned per prompt."""
        return 1

    @property
    def candidates(self) -> int:
        """The number of answers generated per prompt; the best `choices` of them are returned."""
        return self.choices

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate for each prompt; None without a limit."""
        values = (getattr(self, name) for name in self.limits)
        return next((value for value in values if value is not None), None)

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a rule is broken; the error names the parameter.
        """
        refuse_unsupported(self, self.parameters)
        check_biases(self.logit_bias or {})
        if self.token_limit is not None and (self.min_tokens or 0) > self.token_limit:
            raise InvalidRequest(
                f"`min_tokens` is above the {self.token_limit} tokens that the answer may have.",
                param="min_tokens",
                code="invalid_value",
            )
        if self.ignore_eos and self.grammar is not None:
            raise InvalidRequest(
                "`ignore_eos` cannot be true if a grammar constrains the answer.",
                param="ignore_eos",
                code="invalid_value",
            )


class GenerationRequest(SamplingRequest, frozen=True, kw_only=True):
    """The parameters that chat completions and completions share."""

    stop: StopString | StopStrings | None = None
    max_tokens: TokenCount | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Choices | None = None
    return_progress: ReturnProgress | None = None
    response_format: AnyFormat | None = None

    @property
    def grammar(self) -> Grammar | None:
        """The grammar that constrains the answer; None for free text."""
        return to_grammar(self.response_format, self.structured_outputs)

    @property
    def grammar_param(self) -> str:
        """The parameter that sets the grammar."""
        return "response_format" if self.structured_outputs is None else "structured_outputs"

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def choices(self) -> int:
        """The number of answers returned per prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with an event with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether each event of a stream has the usage so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def reports_progress(self) -> bool:
        """Whether the stream says how far the prefill is."""
        return bool(self.return_progress and self.stream)

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a rule is broken; the error names the parameter.
        """
        super().check()
        check_structure(self.response_format, self.structured_outputs)
        check_stops(self.stop_strings)
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "`stream_options` is only allowed when `stream` is true.",
                param="stream_options",
                code="invalid_value",
            )


def check_stops(stops: Iterable[str], param: str = "stop") -> None:
    """Refuse stop strings that are too long together.

    Raises:
        InvalidRequest: they have more than `MAX_STOPS_CHARS` characters.
    """
    if sum(map(len, stops)) > MAX_STOPS_CHARS:
        raise InvalidRequest(
            f"`{param}` has more than {MAX_STOPS_CHARS} characters.",
            param=param,
            code="string_above_max_length",
        )


def check_biases(tokens: Iterable[str]) -> None:
    """Refuse a `logit_bias` with keys that are not token ids.

    Raises:
        InvalidRequest: a key is invalid; the message has the key.
    """
    for token in tokens:
        if not TOKEN_ID.fullmatch(token) or int(token) > MAX_TOKEN_ID:
            raise InvalidRequest(
                f"`logit_bias`: `{excerpt(token, 40)}` is not a token id.",
                param="logit_bias",
                code="invalid_value",
            )
