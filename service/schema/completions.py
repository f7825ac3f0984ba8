"""POST /v1/completions: the request, the response and the events of a stream."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.errors import InvalidRequest
from service.schema.chat import ApiFinishReason
from service.schema.logprobs import CompletionLogprobs
from service.schema.parameters import MAX_TOKENS, GenerationRequest, TokenId
from service.schema.usage import PromptProgress, Usage

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 128

TokenIds = Annotated[list[TokenId], Meta(min_length=1)]
Prompts = Annotated[list[str | TokenId | TokenIds], Meta(min_length=1)]


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """Text to continue: a string, strings, token ids, or lists of token ids."""

    prompt: str | Prompts
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    suffix: str | None = None

    @property
    def candidates(self) -> int:
        """The number of answers generated per prompt; the best `n` of them are returned."""
        return self.choices if self.best_of is None else self.best_of

    @property
    def token_limit(self) -> int:
        """The most tokens to generate for each prompt."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list; valid after `check`."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [item for item in self.prompt if isinstance(item, int)]
        return [tokens] if tokens else [item for item in self.prompt if not isinstance(item, int)]

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a rule is broken; the error names the parameter.
        """
        super().check()
        self._check_candidates()
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest(
                "`max_tokens` can be 0 only with `echo`.",
                param="max_tokens",
                code="integer_below_min_value",
            )
        if self.suffix and (self.echo or not all(isinstance(p, str) for p in self.prompts)):
            raise InvalidRequest(
                "`suffix` requires a `prompt` of text, and cannot be combined with `echo`.",
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
                f"`prompt` has more than {MAX_PROMPTS} prompts.",
                param="prompt",
                code="array_above_max_length",
            )

    def _check_candidates(self) -> None:
        """Check that `best_of` is not less than `n`, and equal to it in a stream."""
        if self.candidates < self.choices:
            raise InvalidRequest(
                "`best_of` is less than `n`.", param="best_of", code="invalid_value"
            )
        if self.stream and self.candidates > self.choices:
            raise InvalidRequest(
                "`best_of` above `n` cannot be streamed.", param="best_of", code="invalid_value"
            )


class CompletionChoice(msgspec.Struct, frozen=True):
    """One answer, or in a stream its next part; `finish_reason` is null until the last event."""

    index: int
    text: str
    finish_reason: ApiFinishReason | None = None
    logprobs: CompletionLogprobs | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A complete response, or one event of a stream: both have the same shape.

    `created` is Unix time in seconds. In a stream `usage` is absent unless the request
    includes it; then it is null in all events except the last one. `prompt_progress` is that of
    the choice's prompt, only before its first token and if the request has `return_progress`.
    """

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str = ""
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET
