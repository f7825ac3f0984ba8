"""Changes a conversation to what the model's chat template can render, without losing any text.

Instructions keep their place, so that a later turn's prompt begins with an earlier one's:
an inner system message that the template would refuse or lose becomes a marked part of the
message before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from protocol.json_values import MAX_DEPTH, deeper_than, replace_halves
from worker.templates.traits import ChatMessage, TemplateTraits, Tool

# What must have a description, if only an empty one, for the template to take a tool.
Described = Literal["nothing", "tools", "properties"]
DESCRIBED: tuple[Described, ...] = ("nothing", "tools", "properties")

INSTRUCTION_ROLES = ("system", "developer")
REMINDER = "<system-reminder>\n{}\n</system-reminder>"
# The names under which templates read an earlier answer's reasoning.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
# Ministral refuses an answer without any text.
EMPTY_ANSWER: ChatMessage = {"role": "assistant", "content": " "}
# Where arguments are no JSON object: the only argument of an object that has them.
OTHER_ARGUMENTS = "arguments"
# Of a pair of surrogates, or of half of one: JSON text can only escape them.
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def normalise_messages(
    messages: Sequence[ChatMessage], traits: TemplateTraits, *, has_developer: bool
) -> list[ChatMessage]:
    """The conversation with its instructions and consecutive messages as the template takes them.

    `has_developer` is whether the template knows the role `developer`.
    """
    leading, others = split_leading(messages)
    normal = normalise_leading(leading, traits, has_developer=has_developer)
    if normal and not traits.systems:
        text = normal.pop()["content"]
        others = [user(text), *others]
    for index, message in enumerate(others):
        if message["role"] in INSTRUCTION_ROLES:
            add_instructions(normal, message["content"], traits)
        elif index and is_repeated(normal, message, traits):
            normal[-1] = join(normal[-1], message)
        elif follows_result(normal, message) and not traits.users_after_results:
            normal += [EMPTY_ANSWER, message]
        else:
            normal.append(message)
    return normal


def split_leading(
    messages: Sequence[ChatMessage],
) -> tuple[list[ChatMessage], list[ChatMessage]]:
    """The instructions at the beginning, and the other messages."""
    roles = (message["role"] in INSTRUCTION_ROLES for message in messages)
    count = next((index for index, leads in enumerate(roles) if not leads), len(messages))
    return list(messages[:count]), list(messages[count:])


def begins_with_instructions(messages: Sequence[ChatMessage]) -> bool:
    """Whether the conversation begins with a system message."""
    return bool(messages) and messages[0]["role"] in INSTRUCTION_ROLES


def normalise_leading(
    leading: Sequence[ChatMessage], traits: TemplateTraits, *, has_developer: bool
) -> list[ChatMessage]:
    """The instructions at the beginning: one message where the template keeps only one."""
    if len(leading) == 1 and has_developer:
        return list(leading)
    systems = [{**message, "role": "system"} for message in leading]
    if len(leading) > 1 and not (traits.systems and traits.leading_systems):
        return [{**systems[0], "content": paragraphs(m["content"] for m in systems)}]
    return systems


def add_instructions(normal: list[ChatMessage], text: str, traits: TemplateTraits) -> None:
    """Add a later system message in its place."""
    if traits.inner_systems:
        normal.append({"role": "system", "content": text})
        return
    reminder = REMINDER.format(text)
    if normal and normal[-1]["role"] in ("user", "tool"):
        last = normal[-1]
        normal[-1] = {**last, "content": paragraphs([last["content"], reminder])}
    else:
        normal.append(user(reminder))


def is_repeated(normal: list[ChatMessage], message: ChatMessage, traits: TemplateTraits) -> bool:
    """Whether the template refuses or loses this message after one of the same role."""
    kept = {"user": traits.users, "assistant": traits.assistants}.get(message["role"], True)
    return not kept and bool(normal) and normal[-1]["role"] == message["role"]


def follows_result(normal: list[ChatMessage], message: ChatMessage) -> bool:
    """Whether the user writes after a call's result that the assistant has not answered."""
    return message["role"] == "user" and bool(normal) and normal[-1]["role"] == "tool"


def join(first: ChatMessage, second: ChatMessage) -> ChatMessage:
    """Two messages of one role as one."""
    joined = {**first, **second, "content": paragraphs([first["content"], second["content"]])}
    if reasoning := paragraphs(m.get("reasoning_content") or "" for m in (first, second)):
        joined["reasoning_content"] = reasoning
    if calls := [call for m in (first, second) for call in m.get("tool_calls") or []]:
        joined["tool_calls"] = calls
    return joined


def paragraphs(texts: Iterable[str]) -> str:
    """The texts that are not empty, with a blank line between them."""
    return "\n\n".join(filter(None, texts))


def user(text: str) -> ChatMessage:
    """A message of the user."""
    return {"role": "user", "content": text}


def complete_messages(
    messages: Sequence[ChatMessage], traits: TemplateTraits, reasoning_keys: Sequence[str]
) -> list[ChatMessage]:
    """The messages with what templates read of calls, of results and of reasoning.

    `reasoning_keys` are the names under which the template reads reasoning.
    """
    names: dict[str, str] = {}
    completed = []
    for message in messages:
        own = dict(message)
        if calls := own.get("tool_calls"):
            names |= {call["id"]: call["function"]["name"] for call in calls}
            own["tool_calls"] = [
                decode_call(call, as_object=traits.object_arguments) for call in calls
            ]
        if (name := names.get(own.get("tool_call_id", ""))) is not None:
            own.setdefault("name", name)
        if reasoning := own.get("reasoning_content"):
            own |= dict.fromkeys(reasoning_keys, reasoning)
        completed.append(own)
    return completed


def decode_calls_as_text(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The messages with the arguments of their calls as JSON text of an object."""
    return [
        {**message, "tool_calls": [decode_call(call, as_object=False) for call in calls]}
        if (calls := message.get("tool_calls"))
        else message
        for message in messages
    ]


def decode_call(call: ChatMessage, *, as_object: bool) -> ChatMessage:
    """The call with its arguments as an object, or as the JSON text of one."""
    function = dict(call["function"])
    text = function["arguments"]
    arguments = decode_arguments(text)
    if as_object:
        function["arguments"] = arguments
    elif not text.lstrip().startswith("{") or OTHER_ARGUMENTS in arguments:
        # Else the text stays as it was written, so that a cached prompt is found again.
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": function}


def decode_arguments(text: str) -> dict[str, Any]:
    """The arguments as an object, whatever was written.

    Nothing and `null` are an empty object. What is no object, such as JSON that is cut, is the
    value of one argument, so that the model sees what was written. So is what is nested too
    deeply for templates. Half of a surrogate pair is no character, and is replaced.
    """
    if not text.strip():
        return {}
    try:
        decoded = json.loads(text)
        if ESCAPED_SURROGATE.search(text):
            decoded = json.loads(replace_halves(json.dumps(decoded, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return {OTHER_ARGUMENTS: text}
    if deeper_than(MAX_DEPTH, decoded):
        return {OTHER_ARGUMENTS: text}
    if decoded is None:
        return {}
    return decoded if isinstance(decoded, dict) else {OTHER_ARGUMENTS: decoded}


def complete_tools(tools: Sequence[Tool], described: Described) -> list[Tool]:
    """The tools with parameters, and with the descriptions that the template reads of each."""
    return [{**tool, "function": complete_function(tool["function"], described)} for tool in tools]


def complete_function(function: dict[str, Any], described: Described) -> dict[str, Any]:
    """A function with the properties of its parameters and the descriptions that are read."""
    completed = dict(function)
    if described != "nothing":
        completed["description"] = function.get("description") or ""
    parameters = function.get("parameters") or {}
    if "properties" not in parameters and parameters.get("type", "object") == "object":
        parameters = {"type": "object", "properties": {}, **parameters}
    if described == "properties" and isinstance(parameters.get("properties"), dict):
        properties = {
            name: {"description": "", **schema} if isinstance(schema, dict) else schema
            for name, schema in parameters["properties"].items()
        }
        parameters = {**parameters, "properties": properties}
    return {**completed, "parameters": parameters}
