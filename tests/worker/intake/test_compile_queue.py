"""The parameter that a rejection names when a grammar cannot be enforced."""

from __future__ import annotations

import pytest

from protocol.grammars import Grammar, JsonObject, JsonSchema, Lark, Regex, TextChoice
from protocol.messages import Sampling, Submit, TokenPrompt, ToolUse
from worker.intake.compile_queue import grammar_param


@pytest.mark.parametrize(
    ("grammar", "calls", "supported", "param"),
    [
        (JsonObject(), None, True, "response_format"),
        (JsonSchema("{}"), None, True, "response_format"),
        (JsonSchema("{}"), ToolUse(["stop"]), True, "response_format"),
        (Regex("x"), None, True, "structured_outputs"),
        (TextChoice(["x"]), None, False, "structured_outputs"),
        (Lark('start: "x"'), ToolUse(["stop"]), True, "structured_outputs"),
        (Lark('start: "x"'), ToolUse(["stop"], required=True), True, "tools"),
        (Lark('start: "x"'), ToolUse(["stop"], required=True), False, "tool_choice"),
    ],
)
def test_a_rejection_names_the_parameter_that_the_client_can_change(
    grammar: Grammar, calls: ToolUse | None, supported: bool, param: str
) -> None:
    submit = Submit(
        id=1,
        model="any",
        prompt=TokenPrompt([1]),
        sampling=Sampling(seed=0),
        grammar=grammar,
        calls=calls,
    )
    assert grammar_param(submit, supported=supported) == param
