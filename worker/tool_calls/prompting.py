"""Tools for a model whose chat template knows none: told in its first message, called in JSON.

What such a template cannot render is told in words: earlier calls as the text they
were, results as the user's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from worker.tool_calls.formats import WRITTEN, make_syntax
from worker.tool_calls.syntax import CallSyntax, CallTemplate, Tool

ChatMessage = dict[str, Any]

INSTRUCTIONS = """\
You can call these functions:

{tools}

To call one, answer with this and nothing else:
{example}"""

# JSON between tags, which any vocabulary can spell.
GENERIC_SYNTAX: CallSyntax = make_syntax("json_tools")
GENERIC_CALL = WRITTEN["json_tools"]


def render_tools_as_text(
    messages: Sequence[ChatMessage], tools: Sequence[Tool], written: CallTemplate
) -> list[ChatMessage]:
    """The conversation with `tools` in its first message."""
    told = list(messages)
    if tools:
        listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        example = written.write("NAME", '{"ARGUMENT": "VALUE"}')
        put_first(told, INSTRUCTIONS.format(tools=listed, example=example))
    return told


def render_calls_as_text(
    messages: Sequence[ChatMessage], written: CallTemplate
) -> list[ChatMessage]:
    """The conversation with its calls and their results as text."""
    told: list[ChatMessage] = []
    for message in messages:
        plain = render_message_calls_as_text(message, written)
        if told and message["role"] == "tool" and told[-1]["role"] == "user":
            # Many templates refuse two messages of one role in a row.
            plain = {**plain, "content": f"{told.pop()['content']}\n{plain['content']}"}
        told.append(plain)
    return told


def render_message_calls_as_text(message: ChatMessage, written: CallTemplate) -> ChatMessage:
    """A message whose calls are text, and whose result is the user's."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of the call: {message['content']}"}
    if not message.get("tool_calls"):
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    calls = [written.write(function["name"], function["arguments"]) for function in functions]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join([message["content"], *calls]).strip("\n")}


def put_first(messages: list[ChatMessage], text: str) -> None:
    """Put `text` before all else, in a message of a role that every template knows."""
    if messages and messages[0]["role"] in ("system", "developer", "user"):
        first = messages[0]
        messages[0] = {**first, "content": f"{text}\n\n{first['content']}"}
    else:
        messages.insert(0, {"role": "user", "content": text})
