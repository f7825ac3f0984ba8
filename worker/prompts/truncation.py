"""Leaves out a conversation's oldest turns where it is too long for the context.

A turn is a message of the user and all up to the next one; a call and its output are never
parted. The instructions at the beginning and the last turn always stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from protocol.messages import ChatPrompt
from worker.templates.conversation import split_leading
from worker.templates.traits import ChatMessage

# Every so many attempts halve what is left to search, whatever the sizes of the texts promise.
BISECTING_ATTEMPTS = 3

Measure = Callable[[ChatPrompt], int]


def truncate(prompt: ChatPrompt, measure: Measure, most_tokens: int) -> ChatPrompt:
    """The conversation with as many of its turns as have `most_tokens`, at least the last.

    `measure` gives the number of tokens of a prompt, or a lower bound above `most_tokens`. It is
    called a few times, however many turns there are.
    """
    leading, others = split_leading(prompt.messages)
    starts = find_turns(others)
    tokens = measure(prompt)
    if len(starts) < 2 or tokens <= most_tokens:
        return prompt
    sizes = [*_sizes_from(others, starts)]
    size = sizes[0]
    fewest, most = 1, len(starts) - 1
    attempts = 0
    while fewest < most:
        attempts += 1
        left_out = (fewest + most) // 2
        if attempts % BISECTING_ATTEMPTS:
            promised = _first_within(sizes, size * most_tokens / max(tokens, 1))
            left_out = min(max(promised, fewest), most - 1)
        tokens = measure(_without(prompt, leading, others[starts[left_out] :]))
        size = sizes[left_out]
        if tokens <= most_tokens:
            most = left_out
        else:
            fewest = left_out + 1
    return _without(prompt, leading, others[starts[most] :])


def find_turns(messages: Sequence[ChatMessage]) -> list[int]:
    """Where the turns begin; no call is in another turn than its output."""
    ends = {
        message["tool_call_id"]: index
        for index, message in enumerate(messages)
        if message.get("tool_call_id")
    }
    starts = [0] if messages else []
    together_to = 0
    for index, message in enumerate(messages):
        if index and message["role"] == "user" and index > together_to:
            starts.append(index)
        for call in message.get("tool_calls") or []:
            together_to = max(together_to, ends.get(call["id"], 0))
    return starts


def _without(
    prompt: ChatPrompt, leading: Sequence[ChatMessage], turns: Sequence[ChatMessage]
) -> ChatPrompt:
    return msgspec.structs.replace(prompt, messages=[*leading, *turns])


def _sizes_from(messages: Sequence[ChatMessage], starts: Sequence[int]) -> list[int]:
    """For each turn, how much text it and all after it have."""
    sizes = []
    size = 0
    for start, end in reversed([*zip(starts, [*starts[1:], len(messages)], strict=True)]):
        size += sum(_size_of(message) for message in messages[start:end])
        sizes.append(size)
    return sizes[::-1]


def _size_of(message: ChatMessage) -> int:
    calls = message.get("tool_calls") or []
    texts = (call["function"]["arguments"] for call in calls)
    reasoning = message.get("reasoning_content") or ""
    return 1 + len(message["content"]) + len(reasoning) + sum(map(len, texts))


def _first_within(sizes: Sequence[int], size: float) -> int:
    """The first turn from which on there is at most so much text; the last one if none is."""
    found = (index for index, each in enumerate(sizes) if each <= size)
    return next(found, len(sizes) - 1)
