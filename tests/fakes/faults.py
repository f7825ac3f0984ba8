"""Faults of the fake worker, set in a prompt or in a model's source, for example `[die 5]`.

The number is the position in the answer before which the fault occurs. It occurs once, in
a request that is not resumed; `[die 5 always]` occurs each time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocol.messages import ChatPrompt, Prompt, Submit, TextPrompt

PATTERN = re.compile(r"\[([a-z-]+)(?: (\d+))?( always)?\]")


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault before the token at `position` of the answer."""

    kind: str
    position: int
    always: bool


def fault_of(text: str) -> Fault | None:
    """The fault that `text` sets."""
    match = PATTERN.search(text)
    if match is None:
        return None
    return Fault(kind=match[1], position=int(match[2] or 0), always=bool(match[3]))


def fault_now(submit: Submit, position: int) -> str | None:
    """The kind of the fault that occurs before this position of the answer."""
    fault = fault_of(text_of(submit))
    if fault is None or position != fault.position or (submit.resume and not fault.always):
        return None
    return fault.kind


def text_of(submit: Submit) -> str:
    """The text of the prompt; for a conversation its last message."""
    return text_of_prompt(submit.prompt)


def text_of_prompt(prompt: Prompt) -> str:
    """The text of a prompt; for a conversation its last message."""
    match prompt:
        case TextPrompt(text):
            return text
        case ChatPrompt(messages):
            return str(messages[-1]["content"])
        case other:
            return str(other.tokens)
