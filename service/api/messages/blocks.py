"""The messages of a request and their content blocks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from service.errors import InvalidRequest

# A hint: prompts are cached without it, and the usage says how much was.
CacheControl = dict[str, Any]


class Block(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"
):
    """One block of a message's content."""

    cache_control: CacheControl | None = None


class TextBlock(Block, frozen=True, tag="text"):
    """Text, which may be empty. `citations` are sources of an earlier answer."""

    text: str
    citations: list[Any] | None = None


class PlainTextBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Text where nothing else may be: msgspec requires no tag outside of a union."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: list[Any] | None = None


class ThinkingBlock(Block, frozen=True, tag="thinking"):
    """The thinking of an earlier answer; without a text it is read from `signature`."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Block, frozen=True, tag="redacted_thinking"):
    """Thinking that another server has encrypted; nothing of it is in the prompt."""

    data: str


class ToolUseBlock(Block, frozen=True, tag="tool_use"):
    """A call of an earlier answer."""

    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, Any] | None = None
    toolset_name: str | None = None


class ToolResultBlock(Block, frozen=True, tag="tool_result"):
    """The result of a call, which is an earlier one's `id`."""

    tool_use_id: str
    content: str | list[PlainTextBlock] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


class TextSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The text of a document. `type` is a field: msgspec requires no tag outside of a union."""

    type: Literal["text"]
    data: str
    media_type: Literal["text/plain"] = "text/plain"


class DocumentBlock(Block, frozen=True, tag="document"):
    """A document that is text."""

    source: TextSource
    title: str | None = None
    context: str | None = None
    citations: dict[str, Any] | None = None


UserContent = str | list[TextBlock | ToolResultBlock | DocumentBlock]
AssistantContent = str | list[TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock]
SystemContent = str | list[PlainTextBlock]


class MessageParam(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="role"
):
    """One message of the conversation."""


class UserMessageParam(MessageParam, frozen=True, tag="user"):
    """A message of the user, with the results of calls."""

    content: UserContent


class AssistantMessageParam(MessageParam, frozen=True, tag="assistant"):
    """An earlier answer; the last message may be the beginning of this one."""

    content: AssistantContent


class SystemMessageParam(MessageParam, frozen=True, tag="system"):
    """Instructions at this place."""

    content: SystemContent


MessageParams = Annotated[
    list[UserMessageParam | AssistantMessageParam | SystemMessageParam], Meta(min_length=1)
]


def check_messages(messages: MessageParams) -> None:
    """Check the rules of the blocks beyond their types.

    Raises:
        InvalidRequest: a rule is broken; the error names the block and its field.
    """
    calls: set[str] = set()
    for index, message in enumerate(messages):
        if isinstance(message.content, str):
            continue
        for number, block in enumerate(message.content):
            where = f"messages[{index}].content[{number}]"
            match block:
                case ToolUseBlock():
                    check_caller(block.caller, where)
                    calls.add(block.id)
                case ToolResultBlock() if block.tool_use_id not in calls:
                    message_text = f"`{where}.tool_use_id`: no earlier tool_use block has this id."
                    raise invalid(message_text, f"{where}.tool_use_id")
                case DocumentBlock() if (block.citations or {}).get("enabled"):
                    raise unsupported(f"{where}.citations", "Citations are not supported.")


def check_caller(caller: dict[str, Any] | None, where: str) -> None:
    """Refuse a call that a server's tool has made.

    Raises:
        InvalidRequest: the caller is not the model itself.
    """
    if caller and caller.get("type") != "direct":
        raise unsupported(f"{where}.caller", f"`{where}.caller`: only `direct` is supported.")


def invalid(message: str, param: str) -> InvalidRequest:
    """The error for a value that cannot be served."""
    return InvalidRequest(message, param=param, code="invalid_value")


def unsupported(param: str, message: str) -> InvalidRequest:
    """The error for a feature that this server does not have."""
    return InvalidRequest(message, param=param, code="unsupported_parameter")
