"""What a chat template does with the messages of a conversation, found by rendering short ones.

Templates differ: some refuse a second system message, some leave it out without a word, some
have no system message at all. Each trait is probed with messages whose texts are easy to find.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

ChatMessage = dict[str, Any]
Tool = dict[str, Any]
# Renders messages and tools with a chat template as text; raises one of `RENDER_ERRORS`.
Render = Callable[[Sequence[ChatMessage], Sequence[Tool]], str]

RENDER_ERRORS = (TemplateError, TypeError, ValueError, KeyError, RecursionError)
# A word that templates change in its case at most, and that is no part of another probe's word.
PROBE_WORD = "mlxd{}probe"
PROBE_TOOL_NAME = "mlxd_probe"
PROBE_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": PROBE_TOOL_NAME,
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
    },
}
PROBE_ARGUMENT = "mlxdargumentprobe"
SECOND_ARGUMENT = "mlxdsecondprobe"
PROBE_KEY = "mlxdkeyprobe"
PYTHON_OBJECT = f"{{'{PROBE_KEY}'"
# Nine letters and digits, as Mistral's templates require.
PROBE_CALL_ID = "probe0001"
SECOND_CALL_ID = "probe0002"


EMPTY_SYSTEM: ChatMessage = {"role": "system", "content": ""}


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What the template keeps.

    - `systems`: a system message at the beginning; `leading_systems`: several there;
      `inner_systems`: system messages anywhere.
    - `users`, `assistants`: several messages of that role in a row.
    - `tools`: the tools of the request; `tools_beside_system` and `tools_beside_empty_system`: if
      the conversation begins with a system message, and with one without text.
    - `calls`: calls and their results; `several_calls`: more than one of a message.
      `object_arguments`: it takes the arguments as an object,
      else as JSON text. `users_after_results`: a message of the user may follow a result.
    """

    systems: bool
    leading_systems: bool
    inner_systems: bool
    users: bool
    assistants: bool
    tools: bool
    tools_beside_system: bool
    tools_beside_empty_system: bool
    calls: bool
    several_calls: bool
    object_arguments: bool
    users_after_results: bool


def find_traits(render: Render, tools: Sequence[Tool]) -> TemplateTraits:
    """The traits of the template behind `render`, for conversations with these tools."""

    def keeps(*roles: str) -> bool:
        messages = [probe(role, place) for place, role in enumerate(roles)]
        return keeps_words(render, messages, tools, texts_of(messages))

    def keeps_call(arguments: Any, *more: ChatMessage) -> bool:
        messages = [*conversation_with_call(arguments), *more]
        words = [*texts_of(messages), PROBE_ARGUMENT]
        return keeps_words(render, messages, tools, words)

    def keeps_two_calls() -> bool:
        messages = conversation_with_two_calls(as_object=object_arguments)
        words = [*texts_of(messages), PROBE_ARGUMENT, SECOND_ARGUMENT]
        return keeps_words(render, messages, tools, words)

    def keeps_tools(*before: ChatMessage) -> bool:
        names = [tool["function"]["name"] for tool in tools]
        return keeps_words(render, [*before, probe("user", 0)], tools, names)

    object_arguments = keeps_call(probe_arguments(PROBE_ARGUMENT, as_object=True))
    arguments = probe_arguments(PROBE_ARGUMENT, as_object=object_arguments)
    return TemplateTraits(
        systems=keeps("system", "user"),
        leading_systems=keeps("system", "system", "user"),
        inner_systems=keeps("system", "user", "system")
        and keeps("system", "user", "assistant", "system", "user"),
        users=keeps("user", "user") and keeps("user", "assistant", "user", "user"),
        assistants=keeps("user", "assistant", "assistant", "user"),
        tools=keeps_tools(),
        tools_beside_system=keeps_tools(probe("system", 1)),
        tools_beside_empty_system=keeps_tools(EMPTY_SYSTEM),
        calls=keeps_call(arguments),
        several_calls=keeps_two_calls(),
        object_arguments=object_arguments,
        users_after_results=keeps_call(arguments, probe("user", 2)),
    )


def probe(role: str, place: int) -> ChatMessage:
    """A message of this role with a text that is easy to find."""
    return {"role": role, "content": PROBE_WORD.format(place)}


def texts_of(messages: Sequence[ChatMessage]) -> list[str]:
    """The texts of the messages."""
    return [message["content"] for message in messages]


def keeps_words(
    render: Render, messages: Sequence[ChatMessage], tools: Sequence[Tool], words: Sequence[str]
) -> bool:
    """Whether the template takes the messages and the tools, and its text has all words.

    A template may change their case. Arguments as Python writes an object are not kept: no
    family writes them so.
    """
    try:
        text = render(messages, tools).lower()
    except RENDER_ERRORS:
        return False
    return PYTHON_OBJECT not in text and all(word in text for word in words)


def conversation_with_call(arguments: Any) -> list[ChatMessage]:
    """A question, a call with these arguments, and its result."""
    function = {"name": PROBE_TOOL_NAME, "arguments": arguments}
    call = {"id": PROBE_CALL_ID, "type": "function", "function": function}
    return [
        probe("user", 0),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {**probe("tool", 1), "tool_call_id": PROBE_CALL_ID, "name": PROBE_TOOL_NAME},
    ]


def conversation_with_two_calls(*, as_object: bool) -> list[ChatMessage]:
    """A question, a message with two calls, and their results."""
    question, answer, result = conversation_with_call(
        probe_arguments(PROBE_ARGUMENT, as_object=as_object)
    )
    [call] = answer["tool_calls"]
    arguments = probe_arguments(SECOND_ARGUMENT, as_object=as_object)
    second = {
        **call,
        "id": SECOND_CALL_ID,
        "function": {**call["function"], "arguments": arguments},
    }
    more = {**probe("tool", 2), "tool_call_id": SECOND_CALL_ID, "name": PROBE_TOOL_NAME}
    return [question, {**answer, "tool_calls": [call, second]}, result, more]


def probe_arguments(value: str, *, as_object: bool) -> Any:
    """The arguments of a call, as an object or as JSON text."""
    return {PROBE_KEY: value} if as_object else json.dumps({PROBE_KEY: value})
