"""What a refusal calls the parameter that asked for a grammar."""

from __future__ import annotations

import pytest

from protocol.grammars import Grammar, JsonObject, JsonSchema, Lark, Regex, TextChoice
from protocol.messages import Sampling, Submit, TokenPrompt, ToolUse
from worker.intake.compile_queue import param_of


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
def test_a_refusal_names_the_parameter_that_can_be_changed(
    grammar: Grammar, calls: ToolUse | None, supported: bool, param: str
) -> None:
    submit = Submit(1, "any", TokenPrompt([1]), Sampling(seed=0), grammar=grammar, calls=calls)
    assert param_of(submit, supported=supported) == param
