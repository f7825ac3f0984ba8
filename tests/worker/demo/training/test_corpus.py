"""The generated corpus is seeded, consistent, and separate from the held-out prompts."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.demo.training.corpus import (
    calls,
    drills,
    geography,
    mixture,
    numbers,
    recall,
    tools,
    weather,
    words,
)
from worker.demo.training.corpus.document import Chat
from worker.demo.training.corpus.draw import Draw, Split, is_held_out
from worker.demo.training.corpus.phrasing import phrasings

SEED = 3
SHARDS = 4
HELD_OUT_EACH = 40

seeds = st.integers(min_value=0)


def chats(shards: int) -> list[Chat]:
    documents = (d for number in range(shards) for d in mixture.shard(SEED, number))
    return [d for d in documents if isinstance(d, Chat)]


def prompt_of(chat: Chat) -> str:
    """The model's input before its last turn."""
    return json.dumps([chat.messages[:-1], chat.tools])


def make_draw(seed: int, split: Split = Split.TRAIN) -> Draw:
    return Draw(random.Random(seed), split)


def test_a_shard_is_the_same_each_time_and_differs_from_the_next() -> None:
    first = mixture.shard(SEED, 0)
    assert first == mixture.shard(SEED, 0)
    assert first != mixture.shard(SEED, 1)
    assert len(first) == mixture.SHARD_DOCUMENTS


@pytest.mark.long
def test_no_held_out_prompt_occurs_in_the_training_corpus() -> None:
    trained = {prompt_of(chat) for chat in chats(SHARDS)}
    held_out = [d for d in mixture.held_out(SEED, HELD_OUT_EACH) if isinstance(d, Chat)]
    assert len(held_out) > HELD_OUT_EACH
    assert [c for c in held_out if prompt_of(c) in trained] == []


def test_every_kind_of_text_occurs_in_both_splits() -> None:
    shards = (0, *mixture.PHASE_STARTS)
    trained = {document.kind for number in shards for document in mixture.shard(SEED, number)}
    assert trained == {document.kind for document in mixture.held_out(SEED, 1)}


def test_every_chat_ends_with_an_assistant_turn_that_contains_the_key() -> None:
    for chat in chats(1):
        last = chat.messages[-1]
        assert last["role"] == "assistant"
        assert chat.key in last["content"]


def test_json_answers_are_json() -> None:
    answers = [c.messages[-1]["content"] for c in chats(1) if c.kind == "json"]
    assert answers
    for answer in answers:
        json.loads(answer)


@pytest.mark.long
def test_the_subject_of_the_weather_tool_is_in_no_training_definition() -> None:
    definitions = json.dumps([chat.tools for chat in chats(SHARDS)])
    assert tools.UNSEEN_SUBJECT in json.dumps(weather.TOOL)
    assert tools.UNSEEN_SUBJECT not in definitions


@pytest.mark.long
def test_the_corpus_defines_thousands_of_tools() -> None:
    names = {tool["function"]["name"] for chat in chats(SHARDS) for tool in chat.tools}
    assert len(names) > 2000


@given(seeds)
def test_a_request_names_its_subject_and_every_argument(seed: int) -> None:
    request = tools.request(make_draw(seed))
    schema = request.tool["function"]["parameters"]
    assert set(request.arguments) <= set(schema["properties"])
    assert request.subject in request.question.lower() or request.subject in request.question
    for value in request.arguments.values():
        assert str(value) in request.question


@given(seeds)
def test_every_called_tool_is_offered(seed: int) -> None:
    chat = calls.calling(make_draw(seed))
    called: list[dict[str, Any]] = chat.messages[-1]["tool_calls"]
    offered = {tool["function"]["name"] for tool in chat.tools}
    assert {call["function"]["name"] for call in called} <= offered
    assert len(offered) == len(chat.tools)


@given(seeds)
def test_tools_requested_in_turn_are_each_called_once(seed: int) -> None:
    chat = calls.calling_in_turn(make_draw(seed))
    called = [
        call["function"]["name"]
        for message in chat.messages
        for call in message.get("tool_calls", [])
    ]
    assert sorted(called) == sorted(tool["function"]["name"] for tool in chat.tools)


@given(seeds, st.sampled_from(Split))
def test_the_answer_to_a_drill_is_in_the_prompt(seed: int, split: Split) -> None:
    draw = make_draw(seed, split)
    for chat in (drills.repeating(draw), drills.looking_up(draw)):
        prompt = chat.messages[0]["content"]
        answers = [m["content"] for m in chat.messages if m["role"] == "assistant"]
        assert all(a in prompt for a in answers) or chat.kind == "repeating"
        assert answers[-1] == chat.key


@given(seeds, st.sampled_from(Split))
def test_the_words_of_drills_belong_to_their_split(seed: int, split: Split) -> None:
    assert is_held_out(drills.any_word(make_draw(seed, split))) == (split is Split.HELD_OUT)


@given(seeds)
def test_invented_words_are_in_lower_case(seed: int) -> None:
    word = words.invented(random.Random(seed))
    assert word == word.lower() != ""


def test_held_out_phrasings_are_not_formed() -> None:
    held_out = ("Can you tell me my name?", "Tell me who I am.")
    formed = phrasings(("Who am I?",), nouns=("my name",), clauses=("who I am",), without=held_out)
    assert {"Who am I?", "Tell me my name.", "Do you know who I am?"} <= set(formed)
    assert not set(held_out) & set(formed)


def test_every_sum_of_numbers_up_to_ten_is_in_the_training_corpus() -> None:
    draw = make_draw(SEED)
    sums = {numbers.arithmetic(draw).answer for _ in range(20_000)}
    assert {f"{a} + {b} = {a + b}" for a in range(11) for b in range(11)} <= sums


@given(seeds, st.sampled_from(Split))
def test_values_belong_to_their_split(seed: int, split: Split) -> None:
    memory = recall.memory(make_draw(seed, split))
    invented = make_draw(seed, split).value(lambda rng: f"word {rng.random()}")
    assert is_held_out(invented) == (split is Split.HELD_OUT)
    assert memory.statement.key == memory.question.key
    assert memory.question.key in memory.statement.question


@given(seeds)
def test_arithmetic_is_right(seed: int) -> None:
    exchange = numbers.arithmetic(make_draw(seed))
    left, result = exchange.answer.split(" = ")
    first, sign, second = left.split()
    a, b = int(first), int(second)
    assert int(result) == {"+": a + b, "-": a - b, "*": a * b}[sign]


@pytest.mark.parametrize(("country", "city"), [("France", "Paris"), ("Mexico", "Mexico City")])
def test_capitals_of_several_words_are_whole(country: str, city: str) -> None:
    assert geography.CAPITALS[country] == city
