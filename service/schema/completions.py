"""POST /v1/completions: what is asked, and what is answered, plain and streamed."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.errors import InvalidRequest
from service.schema.chat import ApiFinishReason
from service.schema.logprobs import CompletionLogprobs
from service.schema.parameters import MAX_TOKENS, GenerationRequest, TokenId
from service.schema.usage import Usage

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 128

TokenIds = Annotated[list[TokenId], Meta(min_length=1)]
Prompts = Annotated[list[str | TokenId | TokenIds], Meta(min_length=1)]


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """Text to be continued: a string, strings, token ids, or lists of token ids."""

    prompt: str | Prompts
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    suffix: str | None = None

    @property
    def candidates(self) -> int:
        """How many a prompt is generated, of which the best are given."""
        return self.choices if self.best_of is None else self.best_of

    @property
    def token_limit(self) -> int:
        """The most tokens to generate for each prompt."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one; `check` has shown that they are of one kind."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [item for item in self.prompt if isinstance(item, int)]
        return [tokens] if tokens else [item for item in self.prompt if not isinstance(item, int)]

    def check(self) -> None:
        """Refuse what the types alone cannot.

        Raises:
            InvalidRequest: it names the parameter.
        """
        super().check()
        self._check_candidates()
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest(
                "`max_tokens` of 0 goes with `echo` alone.",
                param="max_tokens",
                code="integer_below_min_value",
            )
        if self.suffix and (self.echo or not all(isinstance(p, str) for p in self.prompts)):
            raise InvalidRequest(
                "`suffix` goes with a `prompt` of text, and not with `echo`.",
                param="suffix",
                code="invalid_value",
            )
        if isinstance(self.prompt, str):
            return
        if len({type(item) for item in self.prompt}) > 1:
            raise InvalidRequest(
                "`prompt` mixes strings, token ids and lists of token ids.",
                param="prompt",
                code="invalid_type",
            )
        if not isinstance(self.prompt[0], int) and len(self.prompt) > MAX_PROMPTS:
            raise InvalidRequest(
                f"`prompt` holds more than {MAX_PROMPTS} prompts.",
                param="prompt",
                code="array_above_max_length",
            )

    def _check_candidates(self) -> None:
        """`best_of` is no less than `n`, and a stream cannot know which will be the best."""
        if self.candidates < self.choices:
            raise InvalidRequest(
                "`best_of` is less than `n`.", param="best_of", code="invalid_value"
            )
        if self.stream and self.candidates > self.choices:
            raise InvalidRequest(
                "`best_of` above `n` cannot be streamed.", param="best_of", code="invalid_value"
            )


class CompletionChoice(msgspec.Struct, frozen=True):
    """One continuation, or in a stream its next piece; `finish_reason` is null until the last."""

    index: int
    text: str
    finish_reason: ApiFinishReason | None = None
    logprobs: CompletionLogprobs | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer, or one event of a stream: they share one shape.

    `created` is Unix time in seconds. In a stream `usage` is left out unless it
    was asked for; then it is null in all events but the last.
    """

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str = ""
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
