"""The whole answer, and the objects that a stream's events share with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from protocol.events import Finished
from service.api.messages.request import PromptRequest
from service.generation.answers import Answer, Call, describe_use, finish_of
from service.generation.dialect import ResponseHeader
from service.schema.usage import MlxdUsage
from service.store.encoded_thinking import EncodedThinking

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """`thinking_tokens` of the answer are its thinking."""

    thinking_tokens: int = 0


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The token counts. The prompt's are `input_tokens` and those that came from the cache.

    `mlxd` is not in Anthropic's API; it is left out before the end.
    """

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    mlxd: MlxdUsage | UnsetType = UNSET


class ContentBlock(msgspec.Struct, frozen=True, tag_field="type"):
    """One block of an answer."""


class TextContent(ContentBlock, frozen=True, tag="text"):
    """Text."""

    text: str


class ThinkingContent(ContentBlock, frozen=True, tag="thinking"):
    """The model's thinking; `signature` encodes it, for a later request."""

    thinking: str
    signature: str


class ToolUseContent(ContentBlock, frozen=True, tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


class AppliedEdits(msgspec.Struct, frozen=True):
    """The edits of the context, of which there are none."""

    applied_edits: list[dict[str, Any]] = []


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. In a stream's first event it has no content and no stop reason yet."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextContent | ThinkingContent | ToolUseContent]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: None = None
    usage: MessageUsage
    context_management: AppliedEdits | UnsetType = UNSET


def to_message(
    request: PromptRequest, header: ResponseHeader, answer: Answer, thinking: EncodedThinking
) -> Message:
    """The whole answer."""
    end = finish_of(answer)
    return Message(
        id=header.id,
        model=header.model,
        content=list(to_content(request, header, answer, thinking)),
        stop_reason=stop_reason_of(end),
        stop_sequence=end.stopped_by,
        usage=usage_of(end),
        context_management=applied_edits(request),
    )


def to_content(
    request: PromptRequest, header: ResponseHeader, answer: Answer, thinking: EncodedThinking
) -> Iterator[TextContent | ThinkingContent | ToolUseContent]:
    """The blocks of an answer, in its order. A call that was cut is left out."""
    for part in answer.parts:
        if isinstance(part, Call):
            if (input := parse_input(part.arguments)) is not None:
                yield ToolUseContent(new_call_id(), part.name, input)
        elif part.kind == "reasoning" and part.text:
            shown = "" if request.omits_thinking else part.text
            yield ThinkingContent(shown, thinking.encode(header.model, part.text))
        elif part.text:
            yield TextContent(part.text)


def parse_input(arguments: str) -> dict[str, Any] | None:
    """The arguments of a call; None if they end too early."""
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.DecodeError:
        return None


def stop_reason_of(end: Finished) -> StopReason:
    """Why the answer ended, in Anthropic's words."""
    match end:
        case Finished(reason="tool_calls"):
            return "tool_use"
        case Finished(reason="length"):
            return "model_context_window_exceeded" if end.at_context else "max_tokens"
        case Finished(stopped_by=None):
            return "end_turn"
        case _:
            return "stop_sequence"


def usage_of(end: Finished) -> MessageUsage:
    """The token counts of a complete answer."""
    return MessageUsage(
        input_tokens=end.prompt_tokens - end.cached_tokens,
        cache_read_input_tokens=end.cached_tokens,
        output_tokens=end.completion_tokens,
        output_tokens_details=OutputTokensDetails(end.reasoning_tokens),
        mlxd=describe_use([end]),
    )


def applied_edits(request: PromptRequest) -> AppliedEdits | UnsetType:
    """What became of the edits that a request asks for."""
    return UNSET if request.context_management is None else AppliedEdits()


def new_message_id() -> str:
    """A random public id for an answer."""
    return f"msg_{uuid.uuid4().hex[:24]}"


def new_call_id() -> str:
    """A random public id for a call."""
    return f"toolu_{uuid.uuid4().hex[:24]}"
