"""The parameters that both endpoints share, their bounds, and the rules between them.

Every parameter that OpenAI documents is a field here, in `chat` or in
`completions`; `support` is the table of what is done with each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.grammars import Grammar
from service.errors import InvalidRequest, excerpt
from service.schema.structured import (
    AnyFormat,
    StructuredOutputs,
    check_structure,
    to_grammar,
)
from service.schema.support import refuse_unsupported

MAX_TOKENS = 2**24
MAX_TOP_K = 2**20
MAX_STOPS = 4
MAX_STOP_CHARS = 1024
MAX_STOP_TOKENS = 64
MAX_BIASES = 4096
MAX_TOKEN_ID = 2**31 - 1
SEED_MIN, SEED_MAX = -(2**63), 2**63 - 1

TOKEN_ID = re.compile(r"[0-9]{1,10}")

TokenCount = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
Temperature = Annotated[float, Meta(ge=0, le=2, description="0 is greedy.")]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=0, le=MAX_TOP_K, description="0 is off. Not OpenAI's.")]
MinP = Annotated[float, Meta(ge=0, le=1, description="0 is off. Not OpenAI's.")]
Seed = Annotated[int, Meta(ge=SEED_MIN, le=SEED_MAX)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepetitionPenalty = Annotated[
    float, Meta(gt=0, le=2, description="1 is off; counts the prompt's tokens too. Not OpenAI's.")
]
MinTokens = Annotated[
    int, Meta(ge=0, le=MAX_TOKENS, description="Until then nothing ends the answer. Not OpenAI's.")
]
IgnoreEos = Annotated[
    bool, Meta(description="The model's own end does not end the answer. Not OpenAI's.")
]
TokenId = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
StopTokenIds = Annotated[
    list[TokenId], Meta(max_length=MAX_STOP_TOKENS, description="Not OpenAI's.")
]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Biases = Annotated[dict[str, Bias], Meta(max_length=MAX_BIASES)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
Choices = Annotated[int, Meta(ge=1, le=128)]
StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
StopStrings = Annotated[list[StopString], Meta(min_length=1, max_length=MAX_STOPS)]
MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16)]


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
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: Biases | None = None
    min_tokens: MinTokens | None = None
    ignore_eos: IgnoreEos | None = None
    stop_token_ids: StopTokenIds | None = None
    response_format: AnyFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @property
    def grammar(self) -> Grammar | None:
        """What the answer is held to; None for free text."""
        return to_grammar(self.response_format, self.structured_outputs)

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings as a list, empty where none was given."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def biases(self) -> dict[int, float]:
        """`logit_bias` by token id; `check` has shown that its keys are ids."""
        return {int(token): bias for token, bias in (self.logit_bias or {}).items()}

    @property
    def choices(self) -> int:
        """How many answers a prompt is given."""
        return self.n or 1

    @property
    def candidates(self) -> int:
        """How many a prompt is generated, of which the best are given."""
        return self.choices

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with an event that carries the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self) -> None:
        """Refuse what the types alone cannot.

        Raises:
            InvalidRequest: it names the parameter.
        """
        refuse_unsupported(self)
        check_biases(self.logit_bias or {})
        check_structure(self.response_format, self.structured_outputs)
        if self.ignore_eos and self.grammar is not None:
            raise InvalidRequest(
                "`ignore_eos` cannot be true where a grammar says how the answer ends.",
                param="ignore_eos",
                code="invalid_value",
            )
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "`stream_options` is only allowed when `stream` is true.",
                param="stream_options",
                code="invalid_value",
            )


def check_biases(tokens: Iterable[str]) -> None:
    """Refuse a `logit_bias` whose keys are no token ids.

    Raises:
        InvalidRequest: it names the key.
    """
    for token in tokens:
        if not TOKEN_ID.fullmatch(token) or int(token) > MAX_TOKEN_ID:
            raise InvalidRequest(
                f"`logit_bias`: `{excerpt(token, 40)}` is no token id.",
                param="logit_bias",
                code="invalid_value",
            )
