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
from worker.prompts.builder import PromptBuilder, ShortPrompt

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


def test_an_edit_of_a_message_of_the_last_ones_parts_shortly_behind_a_breakpoint(
    model_paths: dict[str, Path],
) -> None:
    words = "one two three four five six seven eight nine ten " * 8
    messages: Messages = [SYSTEM]
    for number in range(3):
        messages += [
            user(f"{number} {words}"),
            {"role": "assistant", "content": f"{number} {words}"},
        ]
    messages.append(user("And then?"))
    for path in model_paths.values():
        prompts = builder(path)
        short = ShortPrompt(ChatPrompt(messages))
        tokens = prompts.build(short.prompt)
        stops = prompts.breakpoints(short.prompt, tokens, prompts.map_messages(short, tokens))
        for place in range(1, len(messages)):
            edited = [*messages]
            edited[place] = {**edited[place], "content": "Zero. " + edited[place]["content"]}
            others = prompts.build(ChatPrompt(edited))
            parting = next(n for n, token in enumerate(tokens) if others[n] != token)
            assert any(parting - 64 <= stop <= parting for stop in stops), (path.name, place)


@pytest.mark.parametrize("line", ["Date: 2026-11-26", "Session: 7d1f49ab3c55"])
def test_a_breakpoint_is_before_the_line_of_a_date_or_an_id(
    model_paths: dict[str, Path], line: str
) -> None:
    for path in model_paths.values():
        prompts = builder(path)
        first, second = (
            {"role": "system", "content": f"You are terse.\n{each}\nBe kind."}
            for each in (line, "Nothing is known here.")
        )
        tokens = prompts.build(ChatPrompt([first, user("What is it?")]))
        others = prompts.build(ChatPrompt([second, user("What is it?")]))
        parting = next(n for n, token in enumerate(tokens) if others[n] != token)
        assert parting in prompts.breakpoints(ChatPrompt([first, user("What is it?")]), tokens)


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
