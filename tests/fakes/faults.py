"""Faults that a prompt asks of the fake worker: `[die 5]` in its text, or in a model's source.

The number is the position in the answer before which it strikes. It strikes once,
that is only where the request was never resumed; `[die 5 always]` strikes each time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocol.messages import ChatPrompt, Submit, TextPrompt

PATTERN = re.compile(r"\[([a-z-]+)(?: (\d+))?( always)?\]")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens before the answer's token at `position`."""

    kind: str
    position: int
    always: bool


def fault_of(text: str) -> Fault | None:
    """The fault that `text` asks for."""
    found = PATTERN.search(text)
    if found is None:
        return None
    return Fault(found[1], int(found[2] or 0), bool(found[3]))


def fault_now(submit: Submit, position: int) -> str | None:
    """The kind of fault that strikes before this position of the answer."""
    fault = fault_of(text_of(submit))
    if fault is None or position != fault.position or (submit.resume and not fault.always):
        return None
    return fault.kind


def text_of(submit: Submit) -> str:
    """The prompt's text, a conversation's last message."""
    match submit.prompt:
        case TextPrompt(text):
            return text
        case ChatPrompt(messages):
            return str(messages[-1]["content"])
        case prompt:
            return str(prompt.tokens)
