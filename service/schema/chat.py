"""POST /v1/chat/completions: what is asked, and what is answered, plain and streamed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.errors import InvalidRequest
from service.schema.messages import Conversation, check_conversation
from service.schema.parameters import (
    GenerationRequest,
    Metadata,
    TokenCount,
    TopLogprobs,
)
from service.schema.usage import Usage

FinishReason = Literal["stop", "length"]
Messages = Annotated[Conversation, Meta(min_length=1)]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast"]


class PromptCacheOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hint on reusing the prompt; it changes no answer."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m"] | None = None


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """A conversation to be answered."""

    messages: Messages
    max_completion_tokens: TokenCount | None = None

    # Taken as what they are: labels and hints, which change no answer.
    metadata: Metadata | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None

    # Not honoured yet: `parameters.NEUTRAL` says which values change nothing.
    audio: dict[str, Any] | None = None
    function_call: str | dict[str, Any] | None = None
    functions: list[Any] | None = None
    logprobs: bool | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    moderation: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    prediction: dict[str, Any] | None = None
    reasoning_effort: ReasoningEffort | None = None
    response_format: dict[str, Any] | None = None
    service_tier: ServiceTier | None = None
    store: bool | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[Any] | None = None
    top_logprobs: TopLogprobs | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    web_search_options: dict[str, Any] | None = None

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate, by either of its names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def check(self) -> None:
        """Refuse what the types alone cannot.

        Raises:
            InvalidRequest: it names the parameter.
        """
        super().check()
        check_conversation(self.messages)
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InvalidRequest(
                "`max_tokens` and `max_completion_tokens` are one limit: give one of them.",
                param="max_tokens",
                code="invalid_value",
            )


class AnswerMessage(msgspec.Struct, frozen=True):
    """What the assistant said."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer."""

    index: int
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer at once. `created` is Unix time in seconds."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What one event adds; only the first names the role."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    """The next piece of one answer; `finish_reason` is null until its last."""

    index: int
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: None = None


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream.

    `usage` is left out unless it was asked for; then it is null in all events
    but the last, whose `choices` are empty.
    """

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
