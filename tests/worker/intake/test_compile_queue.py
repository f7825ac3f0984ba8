"""The order in which grammars compile, and the parameter that a rejection names."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from typing import cast

import pytest

from protocol.events import Rejected
from protocol.grammars import Grammar, JsonObject, JsonSchema, Lark, Regex, TextChoice
from protocol.messages import ChatPrompt, ModelSource, Sampling, Submit, TokenPrompt, ToolUse
from tests.waiting import HANG_S
from tests.worker.driver import make_config_loader
from worker.intake.compile_queue import CompileQueue, grammar_param
from worker.intake.prepared import prepare
from worker.models.model_config import ModelConfig
from worker.structured_output.compiler import CompileResult, GrammarCompiler
from worker.structured_output.constraint import GrammarError


@pytest.mark.parametrize(
    ("grammar", "calls", "supported", "param"),
    [
        (JsonObject(), None, True, "text.format"),
        (JsonSchema("{}"), ToolUse(["stop"]), True, "text.format"),
        (Regex("x"), None, True, "text.format"),
        (TextChoice(["x"]), None, False, "text.format"),
        (Lark('start: "x"'), ToolUse(["stop"]), True, "text.format"),
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
        grammar_param="text.format",
        calls=calls,
    )
    assert grammar_param(submit, supported=supported) == param


@pytest.mark.parametrize(
    ("schema_paths", "supported", "param"),
    [
        ([], True, "tools"),
        (["tools[3].tools[0].parameters"], True, "tools"),
        (["functions[0].parameters"], True, "functions"),
        (["functions[0].parameters"], False, "function_call"),
        (["tools[0].input_schema"], False, "tool_choice"),
    ],
)
def test_a_rejection_of_required_calls_names_what_declares_them(
    schema_paths: list[str], supported: bool, param: str
) -> None:
    tools = [{"type": "function", "function": {"name": "stop"}}]
    submit = Submit(
        id=1,
        model="any",
        prompt=ChatPrompt([], tools=tools, schema_paths=schema_paths),
        sampling=Sampling(seed=0),
        calls=ToolUse(["stop"], required=True),
    )
    assert grammar_param(submit, supported=supported) == param


class StagedCompiler:
    """Refuses every grammar; its first try times out if its pattern begins with "slow".

    `order` are the patterns in the order of the results. The first compilation waits for `go`.
    """

    vocabulary = object()

    def __init__(self) -> None:
        self.order: list[str] = []
        self.begun = threading.Event()
        self.go = threading.Event()

    def compile(self, grammar: Grammar, *, quick: bool = False) -> CompileResult:
        self.begun.set()
        self.go.wait()
        assert isinstance(grammar, Regex)
        if quick and grammar.pattern.startswith("slow"):
            return GrammarError("too slow", timed_out=True)
        self.order.append(grammar.pattern)
        return GrammarError("refused")


def test_small_grammars_are_first_and_slow_ones_wait_for_all_first_tries() -> None:
    compiler = StagedCompiler()
    loaded = make_config_loader().load(ModelSource("m", None), download=False)
    config: ModelConfig = replace(loaded, grammars=cast("GrammarCompiler", compiler))
    delivered: queue.SimpleQueue[int] = queue.SimpleQueue()
    compiles = CompileQueue(
        is_pending=lambda submit: submit.id != 5,
        deliver=lambda submit, result: delivered.put(submit.id),
    )
    patterns = ["first", "slow 1", "slow 2", "large" * 99, "cancelled", "small"]
    for id, pattern in enumerate(patterns, start=1):
        submit = Submit(id, "m", TokenPrompt([1]), Sampling(0), grammar=Regex(pattern))
        prepared = prepare(config, submit)
        assert not isinstance(prepared, Rejected)
        compiles.put(prepared)
        assert compiler.begun.wait(60)
    compiler.go.set()
    assert {delivered.get(timeout=HANG_S) for _ in range(5)} == {1, 2, 3, 4, 6}
    # The thread took the first one before the others arrived.
    assert compiler.order == ["first", "small", "large" * 99, "slow 1", "slow 2"]
