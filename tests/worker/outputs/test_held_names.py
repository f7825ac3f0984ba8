"""In every family's syntax the names of all calls are held; what a template writes is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.messages import ChatPrompt, Sampling, Submit, ToolUse
from tests.models.call_templates import CALL_TEMPLATES
from tests.models.conversations import BYTES, Conversations, call_message
from worker.engine.bitmask import BitMask
from worker.outputs.tool_constraint import ToolCallConstraint
from worker.structured_output.constraint import CompiledGrammar, compile_text
from worker.structured_output.llguidance_source import to_llguidance

NAMES = ("find_weather", "obtain")
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
    for name in NAMES
]
# Nothing is before a name: its first character tells that it begins.
BARE = {"functionary_v32", "function_tag", "glm47", "longcat", "mistral", "pythonic"}
ASKED = [{"role": "user", "content": "Weather?"}]
CALLS = [(NAMES[0], {"city": "Paris"}), (NAMES[1], {"city": "Rome", "days": 3})]


class Held:
    """A model of one chat template, and the constraint of its answers with tools."""

    def __init__(self, template: str, folder: Path) -> None:
        self.model = Conversations(template, folder, TOOLS)
        config = self.model.config
        calls = ToolUse(list(NAMES), required=False, parallel=True)
        prompt = ChatPrompt(ASKED, tools=TOOLS)
        self.submit = Submit(1, "model", prompt, Sampling(seed=0), calls=calls)
        grammar = config.parsers.optional_call_grammar(self.submit)
        vocabulary = config.grammars.vocabulary
        assert grammar is not None
        assert vocabulary is not None
        self.grammar: CompiledGrammar = compile_text(to_llguidance(grammar), vocabulary)

    def constraint(self, before: str) -> ToolCallConstraint:
        """The constraint of an answer to a prompt with the text `before`."""
        prompt = self.model.encode(before)
        return ToolCallConstraint(
            self.model.config.parsers.create(self.submit, prompt), self.grammar
        )


def tokens_in(mask: BitMask) -> set[int]:
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return set(map(int, np.flatnonzero(bits)))


@pytest.mark.parametrize("name", CALL_TEMPLATES)
def test_the_names_of_both_calls_are_held_and_nothing_that_the_family_writes_is_refused(
    name: str, tmp_path: Path
) -> None:
    held = Held(CALL_TEMPLATES[name], tmp_path / "model")
    before, answer = held.model.written(ASKED, call_message(CALLS))
    constraint = held.constraint(before)
    masks: list[set[int] | None] = []
    text = ""
    places = []
    for token in held.model.encode(answer):
        mask = constraint.mask()
        allowed = None if mask is None else tokens_in(mask)
        assert allowed is None or token in allowed, text
        masks.append(allowed)
        places.append(len(text))
        text += held.model.config.token_bytes(token).decode("latin-1")
        constraint.accept(token)
    starts = {BYTES[ord(each[0])] for each in NAMES}
    for each in NAMES:
        first = places.index(text.rindex(each))
        assert masks[first] == (None if name in BARE else starts)
        assert all(masks[first + n] == {BYTES[ord(c)]} for n, c in enumerate(each) if n)
