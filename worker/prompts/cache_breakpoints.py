"""Where in a conversation's prompt other prompts are likely to part from it.

A layer whose state cannot be cut is reusable only where prefill stopped, so it stops
there: after what all conversations of one system prompt share, and after what the
next turn of this one will share. Templates may drop or move text (the reasoning of
earlier turns, say), so both are found by rendering such a neighbour and comparing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from protocol.messages import ChatPrompt
from worker.cache.radix_node import shared_length

INSTRUCTING_ROLES = ("system", "developer")
OTHER_TEXTS = ("A", "B")
NEXT_TURN = [{"role": "assistant", "content": "A"}, {"role": "user", "content": "B"}]


def find_breakpoints(
    build: Callable[[ChatPrompt], list[int]], prompt: ChatPrompt, tokens: list[int]
) -> list[int]:
    """The places of at most two borders inside `tokens`, which `build` made of `prompt`.

    `build` gives no tokens for what the template refuses: it may, as no client sent it.
    """
    neighbours = [_other_conversation(prompt.messages), [*prompt.messages, *NEXT_TURN]]
    breakpoints = {
        shared_length(tokens, build(msgspec.structs.replace(prompt, messages=messages)))
        for messages in neighbours
    }
    return sorted(border for border in breakpoints if 0 < border < len(tokens))


def _other_conversation(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same instructions, and another first question."""
    instructions = [m for m in messages if m["role"] in INSTRUCTING_ROLES]
    questions = [str(m["content"]) for m in messages if m["role"] == "user"]
    first = questions[0] if questions else ""
    text = next(text for text in OTHER_TEXTS if not first.startswith(text))
    return [*instructions, {"role": "user", "content": text}]
