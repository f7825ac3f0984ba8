"""POST /v1/completions: what is asked, and what is answered, plain and streamed."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.errors import InvalidRequest
from service.schema.chat import FinishReason
from service.schema.parameters import GenerationRequest
from service.schema.usage import Usage

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 128

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Meta(min_length=1)]
Prompts = Annotated[list[str | TokenId | TokenIds], Meta(min_length=1)]


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """Text to be continued: a string, strings, token ids, or lists of token ids."""

    prompt: str | Prompts
    echo: bool | None = None

    # Not honoured yet: `parameters.NEUTRAL` says which values change nothing.
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    suffix: str | None = None

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


class CompletionChoice(msgspec.Struct, frozen=True):
    """One continuation, or in a stream its next piece; `finish_reason` is null until the last."""

    index: int
    text: str
    finish_reason: FinishReason | None = None
    logprobs: None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer, or one event of a stream: they share one shape.

    `created` is Unix time in seconds. In a stream `usage` is left out unless it
    was asked for; then it is null in all events but the last.
    """

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
