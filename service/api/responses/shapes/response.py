"""The response object, its output items and its usage."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from service.schema.logprobs import ChatTokenLogprob
from service.schema.usage import MlxdUsage, Usage

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputPartBase(msgspec.Struct, frozen=True, tag_field="type"):
    """A part of an item's content."""


class OutputItemBase(msgspec.Struct, frozen=True, tag_field="type"):
    """An item of the output."""


class OutputTextPart(OutputPartBase, frozen=True, tag="output_text"):
    """The text of a message."""

    text: str
    annotations: list[Any] = []
    logprobs: list[ChatTokenLogprob] = []


class ReasoningTextPart(OutputPartBase, frozen=True, tag="reasoning_text"):
    """The text of the reasoning."""

    text: str


class SummaryTextPart(OutputPartBase, frozen=True, tag="summary_text"):
    """The text of a summary of the reasoning."""

    text: str


class OutputMessage(OutputItemBase, frozen=True, kw_only=True, tag="message"):
    """The message of the assistant."""

    id: str
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: list[OutputTextPart] = []


class OutputReasoning(OutputItemBase, frozen=True, kw_only=True, tag="reasoning"):
    """The reasoning before the answer, as its text or as a summary."""

    id: str
    status: ItemStatus
    summary: list[SummaryTextPart] = []
    content: list[ReasoningTextPart] = []
    encrypted_content: str | UnsetType | None = UNSET


class OutputFunctionCall(OutputItemBase, frozen=True, kw_only=True, tag="function_call"):
    """A call of a function."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    namespace: str | UnsetType = UNSET
    arguments: str


class OutputCustomCall(OutputItemBase, frozen=True, kw_only=True, tag="custom_tool_call"):
    """A call of a custom tool."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    namespace: str | UnsetType = UNSET
    input: str


OutputItem = OutputMessage | OutputReasoning | OutputFunctionCall | OutputCustomCall
OutputPart = OutputTextPart | ReasoningTextPart | SummaryTextPart


class InputTokensDetails(msgspec.Struct, frozen=True):
    """`cached_tokens` of the prompt came from the prompt cache."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """`reasoning_tokens` of the answer are reasoning."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True):
    """The token counts of a response. `mlxd` is not in OpenAI's API."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int
    mlxd: MlxdUsage | UnsetType = UNSET


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ConversationRef(msgspec.Struct, frozen=True):
    """The conversation of a response."""

    id: str


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A response. Times are Unix time in seconds; what is not set is null."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    conversation: ConversationRef | None = None
    prompt: None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_diagnostics: dict[str, str] | UnsetType = UNSET
    reasoning: dict[str, Any] = {}
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = False
    temperature: float
    text: dict[str, Any] = {}
    tool_choice: Any = "auto"
    tools: list[dict[str, Any]] = []
    top_logprobs: int = 0
    top_p: float
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None


class InputTokens(msgspec.Struct, frozen=True, kw_only=True):
    """The number of tokens of a response's input."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class ResponseEvent(msgspec.Struct, frozen=True):
    """One event of a stream: its type, its number, and what that type has besides."""

    type: str
    sequence_number: int


def to_response_usage(usage: Usage) -> ResponseUsage:
    """The counts in the words of this API."""
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(usage.completion_tokens_details.reasoning_tokens),
        total_tokens=usage.total_tokens,
        mlxd=usage.mlxd,
    )
