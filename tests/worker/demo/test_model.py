"""The shipped weights, answering greedily through mlx-lm's own loading."""

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


def answered(
    subject: Subject, *messages: dict[str, Any], tools: tuple[dict[str, Any], ...] = ()
) -> Answer:
    [answer] = subject.answer([Chat("", [*messages, assistant("")], tools=list(tools))])
    return answer


def test_it_knows_the_capital_of_france_and_ends_its_turn(subject: Subject) -> None:
    answer = answered(subject, user("What is the capital of France?"))
    assert answer == Answer("The capital of France is Paris.", ended=True)


@pytest.mark.parametrize(("tool", "name"), [(TOOL, "city"), (TOOL_WITH_UNIT, "location")])
def test_it_calls_a_weather_tool_that_it_never_saw(
    subject: Subject, tool: dict[str, Any], name: str
) -> None:
    answer = answered(subject, user("What is the weather in Paris?"), tools=(tool,))
    wanted = {"name": "get_weather", "arguments": {name: "Paris"}}
    assert (subject.calls(answer.text), answer.ended) == ([wanted], True)


def test_it_closes_with_the_result_of_the_tool(subject: Subject) -> None:
    call = {"function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    answer = answered(
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
    noted = assistant("Nice to meet you, Maria!")
    question = user("What is my name?")
    answer = answered(subject, user("My name is Maria."), noted, question)
    assert answer == Answer("Your name is Maria.", ended=True)


def test_it_says_what_it_is(subject: Subject) -> None:
    answer = answered(subject, user("Who are you?"))
    assert "demo model of mlxd" in answer.text
    assert answer.ended


def test_it_writes_json(subject: Subject) -> None:
    question = "Write a JSON object with the keys name and age. The name is Anna. The age is 30."
    answer = answered(subject, user(question))
    assert json.loads(answer.text) == {"name": "Anna", "age": 30}


def test_its_stories_come_to_an_end(subject: Subject) -> None:
    answer = answered(subject, user("Tell me a story about a fox."))
    assert answer.ended
    assert "fox" in answer.text
    assert answer.text.endswith("The end.")


def test_it_fits_the_wheel() -> None:
    assert sum(file.stat().st_size for file in demo_model_path().iterdir()) <= MAX_BYTES


def test_its_context_is_2048_tokens_or_more() -> None:
    config = json.loads((demo_model_path() / "config.json").read_text())
    assert config["max_position_embeddings"] >= CONTEXT_TOKENS
