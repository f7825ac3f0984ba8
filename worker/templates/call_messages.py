"""Earlier calls and their results in the form that one model's chat template needs.

A conversation may come from another model, so the ids of its calls may have another form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

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
            rewritten = with_ids(rewritten, CountedIds())
        if self._short_ids:
            rewritten = with_ids(rewritten, ShortIds())
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


class CallIds(Protocol):
    """The ids of a conversation's calls, in the order of its messages."""

    def of_call(self, id: str, name: str) -> str:
        """The id of a call of the tool `name`."""

    def of_result(self, id: str) -> str:
        """The id of the call whose result follows."""


def with_ids(messages: Sequence[ChatMessage], ids: CallIds) -> list[ChatMessage]:
    """The conversation with other ids of its calls."""
    rewritten = []
    for message in messages:
        changed = dict(message)
        if "tool_call_id" in changed:
            changed["tool_call_id"] = ids.of_result(changed["tool_call_id"])
        if calls := changed.get("tool_calls"):
            changed["tool_calls"] = [
                {**call, "id": ids.of_call(call["id"], call["function"]["name"])} for call in calls
            ]
        rewritten.append(changed)
    return rewritten


class ShortIds:
    """Hashes of the ids in nine hexadecimal digits."""

    def of_call(self, id: str, name: str) -> str:
        return self.of_result(id)

    def of_result(self, id: str) -> str:
        return hashlib.sha256(id.encode()).hexdigest()[:9]


class CountedIds:
    """The calls' names and numbers. Clients may use an id again in a later turn."""

    def __init__(self) -> None:
        self._count = 0
        self._latest: dict[str, str] = {}

    def of_call(self, id: str, name: str) -> str:
        self._latest[id] = f"functions.{name}:{self._count}"
        self._count += 1
        return self._latest[id]

    def of_result(self, id: str) -> str:
        # The id of no call stays as it is.
        return self._latest.get(id, id)
