"""The conversation of a request as a chat template reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from protocol.events import Origin
from service.api.messages.blocks import (
    AssistantMessageParam,
    DocumentBlock,
    MessageParams,
    SystemContent,
    SystemMessageParam,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessageParam,
)
from service.store.encoded_thinking import EncodedThinking

# Claude Code's block for billing: it changes with each version, and says nothing to a model.
BILLING_PREFIX = "x-anthropic-billing-header:"
BLANK_LINE = "\n\n"
ERROR_PREFIX = "Error: "

TemplateMessage = dict[str, Any]


def to_template(
    system: SystemContent | None,
    messages: MessageParams,
    thinking: EncodedThinking,
    origins: list[Origin] | None = None,
) -> list[TemplateMessage]:
    """The conversation: neighbours of one role are joined, and results follow their calls.

    `origins` gets for each message which one of the request it is made of; `system` is none.
    """
    converted: list[TemplateMessage] = []
    origins = [] if origins is None else origins
    if text := system_text(system):
        converted.append({"role": "system", "content": text})
        origins.append(Origin(-1, "system"))
    # The number of each call, to have the results in the order of the calls.
    calls: dict[str, int] = {}
    for index, message in enumerate(messages):
        match message:
            case UserMessageParam(content):
                results, text = split_user(content, calls)
                converted += results
                if text or not results:
                    append_text(converted, "user", text)
            case AssistantMessageParam(content):
                append_answer(converted, content, calls, thinking)
            case SystemMessageParam(content):
                if text := system_text(content):
                    append_text(converted, "system", text)
        origin = Origin(index, str(message.__struct_config__.tag))
        origins += [origin] * (len(converted) - len(origins))
    return converted


def system_text(content: SystemContent | None) -> str:
    """The instructions, without blocks that are labels."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = (block.text for block in content if not block.text.startswith(BILLING_PREFIX))
    return BLANK_LINE.join(filter(None, texts))


def split_user(
    content: str | list[TextBlock | ToolResultBlock | DocumentBlock], calls: dict[str, int]
) -> tuple[list[TemplateMessage], str]:
    """The results of calls as messages of tools, and the text of the user."""
    if isinstance(content, str):
        return [], content
    results = [block for block in content if isinstance(block, ToolResultBlock)]
    results.sort(key=lambda block: calls[block.tool_use_id])
    texts = (
        document_text(block) if isinstance(block, DocumentBlock) else block.text
        for block in content
        if not isinstance(block, ToolResultBlock)
    )
    return [to_tool_message(block) for block in results], "".join(texts)


def to_tool_message(block: ToolResultBlock) -> TemplateMessage:
    """The result of a call as a message."""
    text = block.content or ""
    if not isinstance(text, str):
        text = "".join(part.text for part in text)
    prefix = ERROR_PREFIX if block.is_error else ""
    return {"role": "tool", "content": prefix + text, "tool_call_id": block.tool_use_id}


def document_text(block: DocumentBlock) -> str:
    """A document as text: its title, its context and itself, set off from other text."""
    parts = (block.title, block.context, block.source.data)
    return BLANK_LINE.join(part for part in parts if part) + BLANK_LINE


def append_text(converted: list[TemplateMessage], role: str, text: str) -> None:
    """Add a message, or its text to the last one if that has the same role."""
    if converted and converted[-1]["role"] == role:
        converted[-1]["content"] = join((converted[-1]["content"], text))
    else:
        converted.append({"role": role, "content": text})


def append_answer(
    converted: list[TemplateMessage],
    content: str | Iterable[Any],
    calls: dict[str, int],
    thinking: EncodedThinking,
) -> None:
    """Add an earlier answer: neighbouring ones are one message with thinking, text and calls."""
    append_text(converted, "assistant", content if isinstance(content, str) else "")
    message = converted[-1]
    texts: list[str] = []
    for block in () if isinstance(content, str) else content:
        match block:
            case TextBlock():
                texts.append(block.text)
            case ThinkingBlock() if text := read_thinking(block, thinking):
                before = message.get("reasoning_content", "")
                message["reasoning_content"] = join((before, text))
            case ToolUseBlock():
                calls[block.id] = len(calls)
                message.setdefault("tool_calls", []).append(to_call(block))
    if texts:
        message["content"] = join((message["content"], "".join(texts)))


def read_thinking(block: ThinkingBlock, thinking: EncodedThinking) -> str:
    """The thinking of an earlier answer: its text, else what this service has signed."""
    if block.thinking:
        return block.thinking
    decoded = thinking.decode(block.signature)
    return "" if decoded is None else decoded.text


def to_call(block: ToolUseBlock) -> dict[str, Any]:
    """A call as a template reads it."""
    arguments = msgspec.json.encode(block.input).decode()
    function = {"name": block.name, "arguments": arguments}
    return {"id": block.id, "type": "function", "function": function}


def join(texts: Iterable[str]) -> str:
    """Texts of one speaker, with a blank line between them."""
    return BLANK_LINE.join(filter(None, texts))
