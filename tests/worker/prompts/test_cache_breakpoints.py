"""Breakpoints are where other conversations, and the next turn, diverge from a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.messages import ChatPrompt, ModelSource, Sampling, Submit
from tests.oracle import tokenizer
from worker.intake.prepared import PreparedRequest, prepare
from worker.models.families import build_registry
from worker.models.model_config import ModelConfigLoader
from worker.prompts.builder import PromptBuilder

SYSTEM = {"role": "system", "content": "You are terse. " * 10}
Messages = list[dict[str, Any]]


def builder(path: Path) -> PromptBuilder:
    return PromptBuilder(tokenizer(path), vocabulary_size=10_000, context_length=4096)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_a_breakpoint_is_before_the_first_question(
    model_paths: dict[str, Path], family: str
) -> None:
    prompts = builder(model_paths[family])
    tokens = prompts.build(ChatPrompt([SYSTEM, user("What is it?")]))
    others = prompts.build(ChatPrompt([SYSTEM, user("Who was that?")]))
    position = prompts.breakpoints(ChatPrompt([SYSTEM, user("What is it?")]), tokens)[0]
    assert tokens[:position] == others[:position]
    assert tokens[position] != others[position]


def test_a_breakpoint_is_where_the_next_turn_will_diverge(model_paths: dict[str, Path]) -> None:
    for path in model_paths.values():
        prompts = builder(path)
        first: Messages = [user("What is it?")]
        tokens = prompts.build(ChatPrompt(first))
        stops = [*prompts.breakpoints(ChatPrompt(first), tokens), len(tokens) - 1]
        answer = {"role": "assistant", "content": "It is a stone."}
        following = prompts.build(ChatPrompt([*first, answer, user("And that?")]))
        shared = [stop for stop in stops if tokens[:stop] == following[:stop]]
        assert max(shared) > len(tokens) - 12, "the whole question is shared"


def test_breakpoints_are_computed_only_for_models_that_need_them(llama_path: Path) -> None:
    source = ModelSource("tiny", str(llama_path))
    config = ModelConfigLoader(build_registry(), 0).load(source, download=False)
    prompt = ChatPrompt([SYSTEM, user("What is it?")])
    submit = Submit(1, "tiny", prompt, Sampling(seed=0))
    without, with_breakpoints = (
        prepare(config, submit, wants_breakpoints=wants) for wants in (False, True)
    )
    assert isinstance(without, PreparedRequest)
    assert isinstance(with_breakpoints, PreparedRequest)
    assert list(without.breakpoints) == []
    assert with_breakpoints.breakpoints
