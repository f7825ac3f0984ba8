"""Earlier calls and their results in the form that one model's chat template needs.

A conversation may come from another model, so the ids of its calls may have another form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from worker.templates.traits import ChatMessage

# Mistral's templates refuse other ids than those of nine letters and digits.
SHORT_ID_WORD = "length != 9"
# Kimi K2's templates write an id as the header of its call: `functions.NAME:NUMBER`.
COUNTED_ID_WORD = "<|tool_calls_section_begin|>"


class CallMessages:
    """Rewrites the calls in conversations for one chat template; empty: a template in Python."""

    def __init__(self, template: str) -> None:
        self._short_ids = SHORT_ID_WORD in template
        self._counted_ids = COUNTED_ID_WORD in template

    def rewrite(self, messages: Sequence[ChatMessage], *, one_call_each: bool) -> list[ChatMessage]:
        """The conversation as the template needs it; the messages are not changed.

        `one_call_each`: the template refuses or drops further calls of a message.
        """
        rewritten = list(messages)
        if one_call_each:
            rewritten = with_one_call_each(rewritten)
        if self._counted_ids:
            rewritten = with_ids(rewritten, counted_ids(rewritten))
        if self._short_ids:
            rewritten = with_ids(rewritten, short_call_id)
        return rewritten


def with_one_call_each(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The conversation with a message for each call, followed by the call's result."""
    rewritten: list[ChatMessage] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            rewritten.append(message)
            continue
        end = index
        while end < len(messages) and messages[end]["role"] == "tool":
            end += 1
        results, index = list(messages[index:end]), end
        for call in calls:
            rewritten.append({**message, "tool_calls": [call]})
            # The text belongs to the first call.
            message = {"role": message["role"], "content": ""}
            rewritten += [r for r in results if r.get("tool_call_id") == call["id"]]
            results = [r for r in results if r.get("tool_call_id") != call["id"]]
        rewritten += results
    return rewritten


def with_ids(messages: Sequence[ChatMessage], new_id: Callable[[str], str]) -> list[ChatMessage]:
    """The conversation with other ids of its calls."""
    rewritten = []
    for message in messages:
        changed = dict(message)
        if "tool_call_id" in changed:
            changed["tool_call_id"] = new_id(changed["tool_call_id"])
        if calls := changed.get("tool_calls"):
            changed["tool_calls"] = [{**call, "id": new_id(call["id"])} for call in calls]
        rewritten.append(changed)
    return rewritten


def short_call_id(id: str) -> str:
    """A hash of the id in nine hexadecimal digits."""
    return hashlib.sha256(id.encode()).hexdigest()[:9]


def counted_ids(messages: Sequence[ChatMessage]) -> Callable[[str], str]:
    """Numbers the calls of the conversation; an unknown id stays as it is."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    ids = {
        call["id"]: f"functions.{call['function']['name']}:{number}"
        for number, call in enumerate(calls)
    }
    return lambda id: ids.get(id, id)
