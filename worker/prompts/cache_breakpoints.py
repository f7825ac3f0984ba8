"""Cache breakpoints: where other prompts are likely to diverge from a conversation's prompt.

The cache of a layer that cannot be trimmed is reusable only where prefill stopped. So prefill
stops after the tokens that all conversations with this system prompt share, before each of the
last messages, and after the tokens that the next turn of this conversation will share. Templates
may drop or move text (such as the reasoning of earlier turns), so these are found by rendering
another conversation and comparing the tokens. It also stops before a line with a date, a time or
an id in the instructions: clients change such lines from turn to turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from protocol.messages import ChatPrompt
from worker.cache.radix_node import shared_length
from worker.templates.conversation import INSTRUCTION_ROLES

OTHER_TEXTS = ("A", "B")
OTHER_LINE = "~"
# The line of a date that has more before it is no name and value: only the date changes.
MAX_LINE_CHARS = 40
# Before so many messages, if no other breakpoint is so few tokens before.
MAX_MESSAGES = 8
MESSAGE_GAP_TOKENS = 48
# A date, a time, a UUID, a long number or a long hexadecimal id.
CHANGING = re.compile(
    r"\d{4}-\d\d-\d\d|\d{1,2}:\d\d|\d{1,2}/\d{1,2}/\d{2,4}|[0-9a-f]{8}-[0-9a-f]{4}-|\d{5,}"
    r"|\b(?=[a-f]*\d)[0-9a-f]{12,}\b",
    re.IGNORECASE,
)
# What lines say that have one which changes.
NAMED = re.compile(r"date|day|time|now|session|uuid|\bid\b|budget|tokens", re.IGNORECASE)
OTHER_DIGIT = str.maketrans("0123456789abcdefABCDEF", "1234567890bcdefaBCDEFA")
NEXT_TURN = [{"role": "assistant", "content": "A"}, {"role": "user", "content": "B"}]


def find_breakpoints(
    build: Callable[[ChatPrompt], list[int]],
    prompt: ChatPrompt,
    tokens: list[int],
    starts: Sequence[int] = (),
) -> list[int]:
    """The breakpoints inside `tokens`, which `build` returned for `prompt`.

    `build` returns no tokens for messages that the template refuses. `starts` are where the
    messages begin, if that is known: the last of them are breakpoints, but none that is close
    behind another.
    """
    other = _other_conversation(prompt.messages)
    others = [other, [*prompt.messages, *NEXT_TURN]]
    if (changed := _with_other_line(other)) != other:
        others.append(changed)
    breakpoints = {
        shared_length(tokens, build(msgspec.structs.replace(prompt, messages=messages)))
        for messages in others
    }
    if not starts:
        breakpoints.add(_start_of_last_turn(build, prompt, tokens))
    for start in starts[-MAX_MESSAGES:]:
        if not any(0 <= start - earlier < MESSAGE_GAP_TOKENS for earlier in breakpoints):
            breakpoints.add(start)
    return sorted(position for position in breakpoints if 0 < position < len(tokens))


def _start_of_last_turn(
    build: Callable[[ChatPrompt], list[int]], prompt: ChatPrompt, tokens: list[int]
) -> int:
    """About where the messages after the last answer begin, for who edits them; 0 if there is none.

    Alone they may have more tokens than in the prompt, not fewer: the position is not after it.
    """
    messages = prompt.messages
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers or answers[-1] + 1 == len(messages):
        return 0
    alone = msgspec.structs.replace(prompt, messages=messages[answers[-1] + 1 :], tools=[])
    last_turn = build(alone)
    return len(tokens) - len(last_turn) if last_turn else 0


def _other_conversation(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation with the same instructions and another first question."""
    instructions = [m for m in messages if m["role"] in INSTRUCTION_ROLES]
    questions = [str(m["content"]) for m in messages if m["role"] == "user"]
    first = questions[0] if questions else ""
    text = next(text for text in OTHER_TEXTS if not first.startswith(text))
    return [*instructions, {"role": "user", "content": text}]


def _with_other_line(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same messages with another line instead of that of a date or an id, if there is one.

    Another conversation may have another line there. Of a long line only the date is another.
    """
    instructions = [message for message in messages if message["role"] in INSTRUCTION_ROLES]
    for number, message in enumerate(instructions):
        if (place := find_changing(str(message["content"]))) is not None:
            content = str(message["content"])
            start, end = place
            before = line_before(content, start)
            changed = content[start:end].translate(OTHER_DIGIT)
            if len(before) <= MAX_LINE_CHARS:
                start -= len(before)
                changed = OTHER_LINE + changed
            changed = content[:start] + changed + content[end:]
            return [
                *messages[:number],
                {**message, "content": changed},
                *messages[number + 1 :],
            ]
    return messages


def find_changing(text: str) -> tuple[int, int] | None:
    """Where the first date or id is, of a line that says so if there is one."""
    found = list(CHANGING.finditer(text))
    named = (match for match in found if NAMED.search(line_before(text, match.start())))
    match = next(named, None) or next(iter(found), None)
    return None if match is None else match.span()


def line_before(text: str, position: int) -> str:
    """The line of this position up to it."""
    return text[text.rfind("\n", 0, position) + 1 : position]
