"""The messages of a conversation, as OpenAI documents them for text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from service.errors import InvalidRequest


class CacheBreakpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hint where a prompt's reusable beginning ends; it changes no answer."""

    mode: Literal["explicit"]
    ttl: Literal["30m", "12h"] | None = None


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text. `type` is a field: msgspec lets a tag be left out where it chooses nothing."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class AnswerPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """One part of what the assistant said."""


class AnswerText(AnswerPart, frozen=True, tag="text"):
    """The assistant's words."""

    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class RefusalPart(AnswerPart, frozen=True, tag="refusal"):
    """The assistant's words where it refused."""

    refusal: str


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which function was called; `arguments` is JSON as the model wrote it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One call the assistant made."""

    id: str
    type: Literal["function"]
    function: FunctionCall


TextContent = str | Annotated[list[TextPart], Meta(min_length=1)]
AnswerContent = str | Annotated[list[AnswerText | RefusalPart], Meta(min_length=1)]


class ConversationMessage(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="role",
):
    """What one participant said."""


class SystemMessage(ConversationMessage, frozen=True, tag="system"):
    """Instructions."""

    content: TextContent
    name: str | None = None


class DeveloperMessage(ConversationMessage, frozen=True, tag="developer"):
    """Instructions, by the newer name."""

    content: TextContent
    name: str | None = None


class UserMessage(ConversationMessage, frozen=True, tag="user"):
    """What the user said."""

    content: TextContent
    name: str | None = None


class AssistantMessage(ConversationMessage, frozen=True, tag="assistant"):
    """An earlier answer. It has content, tool calls, or a refusal.

    `reasoning_content`, which is not OpenAI's, goes to the template as it is.
    """

    content: AnswerContent | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(min_length=1)] | None = None
    function_call: FunctionCall | None = None
    reasoning_content: str | None = None
    audio: Any = None
    annotations: list[Any] | None = None

    def check(self, path: str) -> None:
        """Refuse an empty message, and what a text model cannot be told.

        Raises:
            InvalidRequest: it names the parameter under `path`.
        """
        called = self.tool_calls or self.function_call
        if not (self.content is not None or called or self.refusal):
            raise InvalidRequest(
                f"`{path}.content` is required where there are no tool calls.",
                param=f"{path}.content",
                code="missing_required_parameter",
            )
        for name in ("audio", "annotations"):
            if getattr(self, name) not in (None, []):
                raise InvalidRequest(
                    f"`{path}.{name}` is not supported by this server.",
                    param=f"{path}.{name}",
                    code="unsupported_parameter",
                )


class ToolMessage(ConversationMessage, frozen=True, tag="tool"):
    """What a called tool returned."""

    content: TextContent
    tool_call_id: str


class FunctionMessage(ConversationMessage, frozen=True, tag="function"):
    """What a called function returned: deprecated by OpenAI for `tool`."""

    content: TextContent | None
    name: str


Conversation = list[
    SystemMessage
    | DeveloperMessage
    | UserMessage
    | AssistantMessage
    | ToolMessage
    | FunctionMessage
]


def check_conversation(messages: Conversation) -> None:
    """Refuse what the types of the messages alone cannot.

    Raises:
        InvalidRequest: it names the message and its field.
    """
    for index, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            message.check(f"messages[{index}]")


def is_open_answer(message: ConversationMessage) -> bool:
    """Whether this is an answer that can be gone on with: text, and no calls."""
    return (
        isinstance(message, AssistantMessage)
        and bool(message.content)
        and not (message.tool_calls or message.function_call)
    )


def to_template(messages: Conversation) -> list[dict[str, Any]]:
    """The conversation as a chat template reads it: content is one string, nulls are left out."""
    plain: list[dict[str, Any]] = msgspec.to_builtins(messages)
    function_id = ""
    for index, (message, told) in enumerate(zip(messages, plain, strict=True)):
        told["content"] = _text_of(message.content)
        if (call := told.pop("function_call", None)) is not None:
            function_id = f"call_{index}"
            told["tool_calls"] = [{"id": function_id, "type": "function", "function": call}]
        elif isinstance(message, FunctionMessage):
            told["role"], told["tool_call_id"] = "tool", function_id
    return plain


def _text_of(content: TextContent | AnswerContent | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)
