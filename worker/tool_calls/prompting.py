"""Tools for models whose chat template does not support them: described in the first message.

Earlier calls become the assistant's text, and their results become user messages.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from worker.tool_calls.json_formats import JSON_TOOLS
from worker.tool_calls.syntax import CallSyntax, CallTemplate, Tool

ChatMessage = dict[str, Any]

INSTRUCTIONS = """\
You can call these functions:

{tools}

To call one, answer with this and nothing else:
{example}"""

# JSON between tags, which every vocabulary can encode.
GENERIC_SYNTAX: CallSyntax = dataclasses.replace(JSON_TOOLS, name="generic_json")
GENERIC_CALL_TEMPLATE = CallTemplate(
    '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"
)


def render_tools_as_text(
    messages: Sequence[ChatMessage], tools: Sequence[Tool], call_template: CallTemplate
) -> list[ChatMessage]:
    """The conversation with the tools described in its first message."""
    rendered = list(messages)
    if tools:
        functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        example = call_template.render("NAME", '{"ARGUMENT": "VALUE"}')
        prepend_text(rendered, INSTRUCTIONS.format(tools=functions, example=example))
    return rendered


def render_calls_as_text(
    messages: Sequence[ChatMessage], call_template: CallTemplate
) -> list[ChatMessage]:
    """The conversation with its calls and their results as text."""
    rendered: list[ChatMessage] = []
    for message in messages:
        plain = render_message_calls_as_text(message, call_template)
        if rendered and message["role"] == "tool" and rendered[-1]["role"] == "user":
            # Many templates refuse two messages of one role in a row.
            plain = {**plain, "content": f"{rendered.pop()['content']}\n{plain['content']}"}
        rendered.append(plain)
    return rendered


def render_message_calls_as_text(message: ChatMessage, call_template: CallTemplate) -> ChatMessage:
    """The message with its calls as text; a tool's result becomes a user message."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of the call: {message['content']}"}
    if not message.get("tool_calls"):
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    calls = [
        call_template.render(function["name"], function["arguments"]) for function in functions
    ]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join([message["content"], *calls]).strip("\n")}


def prepend_text(messages: list[ChatMessage], text: str) -> None:
    """Put `text` before the conversation, in a message of a role that every template supports."""
    if messages and messages[0]["role"] in ("system", "developer", "user"):
        first = messages[0]
        messages[0] = {**first, "content": f"{text}\n\n{first['content']}"}
    else:
        messages.insert(0, {"role": "user", "content": text})
