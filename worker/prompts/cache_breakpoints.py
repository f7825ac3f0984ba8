"""Cache breakpoints: where other prompts are likely to diverge from a conversation's prompt.

The cache of a layer that cannot be trimmed is reusable only where prefill stopped. So prefill
stops after the tokens that all conversations with this system prompt share, and after those
that the next turn of this conversation will share. Templates may drop or move text (such as
the reasoning of earlier turns), so both are found by rendering another conversation and
comparing the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from protocol.messages import ChatPrompt
from worker.cache.radix_node import shared_length
from worker.templates.conversation import INSTRUCTION_ROLES

OTHER_TEXTS = ("A", "B")
NEXT_TURN = [{"role": "assistant", "content": "A"}, {"role": "user", "content": "B"}]


def find_breakpoints(
    build: Callable[[ChatPrompt], list[int]], prompt: ChatPrompt, tokens: list[int]
) -> list[int]:
    """At most two breakpoints inside `tokens`, which `build` returned for `prompt`.

    `build` returns no tokens for messages that the template refuses.
    """
    others = [_other_conversation(prompt.messages), [*prompt.messages, *NEXT_TURN]]
    breakpoints = {
        shared_length(tokens, build(msgspec.structs.replace(prompt, messages=messages)))
        for messages in others
    }
    return sorted(position for position in breakpoints if 0 < position < len(tokens))


def _other_conversation(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation with the same instructions and another first question."""
    instructions = [m for m in messages if m["role"] in INSTRUCTION_ROLES]
    questions = [str(m["content"]) for m in messages if m["role"] == "user"]
    first = questions[0] if questions else ""
    text = next(text for text in OTHER_TEXTS if not first.startswith(text))
    return [*instructions, {"role": "user", "content": text}]
