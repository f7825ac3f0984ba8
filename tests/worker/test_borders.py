"""Prefill stops where other conversations, and the next turn of this one, part from a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.messages import ChatPrompt
from tests.oracle import tokenizer
from worker.prompt import PromptBuilder

SYSTEM = {"role": "system", "content": "You are terse. " * 10}
Messages = list[dict[str, Any]]


def builder(path: Path, *, wants_borders: bool = True) -> PromptBuilder:
    made = PromptBuilder(tokenizer(path), vocabulary_size=10_000, context_length=4096)
    made.wants_borders = wants_borders
    return made


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_a_border_stands_before_the_first_question(
    model_paths: dict[str, Path], family: str
) -> None:
    prompts = builder(model_paths[family])
    tokens = prompts.build(ChatPrompt([SYSTEM, user("What is it?")]))
    others = prompts.build(ChatPrompt([SYSTEM, user("Who was that?")]))
    border = prompts.borders(ChatPrompt([SYSTEM, user("What is it?")]), tokens)[0]
    assert tokens[:border] == others[:border]
    assert tokens[border] != others[border]


def test_a_border_stands_where_the_next_turn_will_part(model_paths: dict[str, Path]) -> None:
    for path in model_paths.values():
        prompts = builder(path)
        first: Messages = [user("What is it?")]
        tokens = prompts.build(ChatPrompt(first))
        stops = [*prompts.borders(ChatPrompt(first), tokens), len(tokens) - 1]
        answer = {"role": "assistant", "content": "It is a stone."}
        following = prompts.build(ChatPrompt([*first, answer, user("And that?")]))
        shared = [stop for stop in stops if tokens[:stop] == following[:stop]]
        assert max(shared) > len(tokens) - 12, "all of the question is shared"


def test_no_border_is_looked_for_where_none_is_wanted(llama_path: Path) -> None:
    prompts = builder(llama_path, wants_borders=False)
    prompt = ChatPrompt([SYSTEM, user("What is it?")])
    assert prompts.borders(prompt, prompts.build(prompt)) == []
