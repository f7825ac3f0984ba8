"""Greedy answers of the shipped weights, in the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker.demo import demo_model_path
from worker.demo.training.corpus.document import Chat, assistant, user
from worker.demo.training.corpus.weather import TOOL, TOOL_WITH_UNIT
from worker.demo.training.evaluate import Answer, Subject

MAX_BYTES = 12_000_000
CONTEXT_TOKENS = 2048


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(demo_model_path())


def ask(
    subject: Subject, *messages: dict[str, Any], tools: tuple[dict[str, Any], ...] = ()
) -> Answer:
    [answer] = subject.answer([Chat("", [*messages, assistant("")], tools=list(tools))])
    return answer


def test_it_knows_the_capital_of_france_and_ends_its_turn(subject: Subject) -> None:
    answer = ask(subject, user("What is the capital of France?"))
    assert answer == Answer("The capital of France is Paris.", ended=True)


@pytest.mark.parametrize(("tool", "name"), [(TOOL, "city"), (TOOL_WITH_UNIT, "location")])
def test_it_calls_a_weather_tool_that_is_not_in_its_training(
    subject: Subject, tool: dict[str, Any], name: str
) -> None:
    answer = ask(subject, user("What is the weather in Paris?"), tools=(tool,))
    expected = {"name": "get_weather", "arguments": {name: "Paris"}}
    assert (subject.calls(answer.text), answer.ended) == ([expected], True)


def test_it_answers_with_the_result_of_the_tool(subject: Subject) -> None:
    call = {"function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    answer = ask(
        subject,
        user("What is the weather in Paris?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature":18}'},
        tools=(TOOL,),
    )
    assert "18" in answer.text
    assert answer.ended
    assert subject.calls(answer.text) == []


def test_it_remembers_a_name(subject: Subject) -> None:
    reply = assistant("Nice to meet you, Maria!")
    question = user("What is my name?")
    answer = ask(subject, user("My name is Maria."), reply, question)
    assert answer == Answer("Your name is Maria.", ended=True)


def test_it_describes_itself(subject: Subject) -> None:
    answer = ask(subject, user("Who are you?"))
    assert "demo model of mlxd" in answer.text
    assert answer.ended


def test_it_writes_json(subject: Subject) -> None:
    question = "Write a JSON object with the keys name and age. The name is Anna. The age is 30."
    answer = ask(subject, user(question))
    assert json.loads(answer.text) == {"name": "Anna", "age": 30}


def test_its_stories_end(subject: Subject) -> None:
    answer = ask(subject, user("Tell me a story about a fox."))
    assert answer.ended
    assert "fox" in answer.text
    assert answer.text.endswith("The end.")


def test_its_files_are_at_most_12_mb() -> None:
    assert sum(file.stat().st_size for file in demo_model_path().iterdir()) <= MAX_BYTES


def test_its_context_is_at_least_2048_tokens() -> None:
    config = json.loads((demo_model_path() / "config.json").read_text())
    assert config["max_position_embeddings"] >= CONTEXT_TOKENS
