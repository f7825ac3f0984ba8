"""The messages of a conversation, as in OpenAI's API for text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from service.errors import InvalidRequest


class CacheBreakpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hint: the reusable prefix of the prompt ends here. It has no effect on the answer."""

    mode: Literal["explicit"]
    ttl: Literal["30m", "12h"] | None = None


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text. `type` is a field: msgspec does not require a tag outside of a union."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class AnswerPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """One part of an assistant message."""


class AnswerText(AnswerPart, frozen=True, tag="text"):
    """Text of the assistant."""

    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class RefusalPart(AnswerPart, frozen=True, tag="refusal"):
    """A refusal of the assistant."""

    refusal: str


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function call; `arguments` is the JSON text that the model generated."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tool call of the assistant."""

    id: str
    type: Literal["function"]
    function: FunctionCall


TextContent = str | Annotated[list[TextPart], Meta(min_length=1)]
# A tool may return nothing.
ResultContent = str | list[TextPart]
AnswerContent = str | list[AnswerText | RefusalPart]


class ConversationMessage(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="role",
):
    """One message of a conversation."""


class SystemMessage(ConversationMessage, frozen=True, tag="system"):
    """Instructions."""

    content: TextContent
    name: str | None = None


class DeveloperMessage(ConversationMessage, frozen=True, tag="developer"):
    """Instructions; OpenAI's newer name of `system`."""

    content: TextContent
    name: str | None = None


class UserMessage(ConversationMessage, frozen=True, tag="user"):
    """A message of the user."""

    content: TextContent
    name: str | None = None


class AssistantMessage(ConversationMessage, frozen=True, tag="assistant"):
    """An earlier answer. It has content, reasoning, tool calls, or a refusal.

    `reasoning_content`, which is not in OpenAI's API, is passed to the template unchanged;
    `reasoning` is another name of it.
    """

    content: AnswerContent | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    audio: Any = None
    annotations: list[Any] | None = None

    def check(self, path: str) -> None:
        """Refuse an empty message, and fields that a text model cannot use.

        Raises:
            InvalidRequest: the error names the parameter, which begins with `path`.
        """
        self._check_content(path)
        if self.reasoning and (self.reasoning_content or self.reasoning) != self.reasoning:
            raise InvalidRequest(
                f"`{path}.reasoning` is another name of `reasoning_content`: set only one of them.",
                param=f"{path}.reasoning",
                code="invalid_value",
            )
        for name in ("audio", "annotations"):
            if getattr(self, name) not in (None, []):
                raise InvalidRequest(
                    f"`{path}.{name}` is not supported by this server.",
                    param=f"{path}.{name}",
                    code="unsupported_parameter",
                )

    def _check_content(self, path: str) -> None:
        calls = self.tool_calls or self.function_call
        if self.content or calls or self.refusal or self.reasoning_content or self.reasoning:
            return
        # Text may be empty, but an empty list of parts is no text.
        if not isinstance(self.content, str):
            is_empty = self.content is not None
            raise InvalidRequest(
                f"`{path}.content` is required in a message without tool calls.",
                param=f"{path}.content",
                code="array_below_min_length" if is_empty else "missing_required_parameter",
            )


class ToolMessage(ConversationMessage, frozen=True, tag="tool"):
    """The result of a tool call."""

    content: ResultContent
    tool_call_id: str


class FunctionMessage(ConversationMessage, frozen=True, tag="function"):
    """The result of a function call; deprecated by OpenAI in favour of `tool`."""

    content: ResultContent | None
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
    """Check the rules of the messages beyond their types.

    Raises:
        InvalidRequest: a rule is broken; the error names the message and its field.
    """
    for index, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            message.check(f"messages[{index}]")


def is_continuable(message: ConversationMessage) -> bool:
    """Whether the message is an answer that can be continued: it has text and no calls."""
    return (
        isinstance(message, AssistantMessage)
        and bool(message.content)
        and not (message.tool_calls or message.function_call)
    )


def to_template(messages: Conversation) -> list[dict[str, Any]]:
    """The conversation for a chat template: each content is one string, nulls are left out."""
    converted: list[dict[str, Any]] = msgspec.to_builtins(messages)
    function_id = ""
    for index, (message, fields) in enumerate(zip(messages, converted, strict=True)):
        fields["content"] = _text_of(message.content)
        if not fields.get("tool_calls", True):
            del fields["tool_calls"]
        if (reasoning := fields.pop("reasoning", None)) and not fields.get("reasoning_content"):
            fields["reasoning_content"] = reasoning
        if (call := fields.pop("function_call", None)) is not None:
            function_id = f"call_{index}"
            fields["tool_calls"] = [{"id": function_id, "type": "function", "function": call}]
        elif isinstance(message, FunctionMessage):
            fields["role"], fields["tool_call_id"] = "tool", function_id
    return converted


def _text_of(content: TextContent | ResultContent | AnswerContent | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)
