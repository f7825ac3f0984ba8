"""Tools with the `openai` package, on the built-in model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.e2e.daemon import Daemon

WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
ASKED: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the weather in Paris?"}
]


@pytest.fixture
def speaker(demo: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **changed: Any) -> dict[str, Any]:
    """The plain answer: its reason, its message without ids."""
    asked = {"model": "default", "messages": ASKED, "tools": [WEATHER], "temperature": 0, **changed}
    [choice] = client.chat.completions.create(**asked).choices
    return {"reason": choice.finish_reason, **shape(choice.message.model_dump(exclude_none=True))}


def ask_stream(client: openai.OpenAI, **changed: Any) -> dict[str, Any]:
    """The same, added up by the package's own stream."""
    asked = {"model": "default", "messages": ASKED, "tools": [WEATHER], "temperature": 0, **changed}
    message: dict[str, Any] = {"content": ""}
    calls: list[dict[str, Any]] = []
    reason = None
    for chunk in client.chat.completions.create(stream=True, **asked):
        [choice] = chunk.choices
        reason = choice.finish_reason or reason
        message["content"] += choice.delta.content or ""
        for call in choice.delta.tool_calls or []:
            assert call.function is not None
            if call.id is not None:
                assert (call.index, call.type) == (len(calls), "function")
                assert call.id.startswith("call_")
                assert call.function.arguments == ""
                calls.append({"function": {"name": call.function.name, "arguments": ""}})
            else:
                assert call.function.name is None
                calls[call.index]["function"]["arguments"] += call.function.arguments
    return {"reason": reason, **shape({**message, "tool_calls": calls})}


def shape(message: dict[str, Any]) -> dict[str, Any]:
    calls = [call["function"] for call in message.get("tool_calls") or []]
    return {"content": message.get("content") or "", "calls": calls}


def test_a_stream_and_a_plain_answer_are_the_same_wherever_they_are_cut(
    speaker: openai.OpenAI,
) -> None:
    for tokens in (1, 4, 8, 11, 14, 17, 60):
        plain = ask(speaker, max_tokens=tokens)
        assert ask_stream(speaker, max_tokens=tokens) == plain
        assert bool(plain["calls"]) != bool(plain["content"])
        if plain["reason"] == "tool_calls":
            assert [json.loads(call["arguments"]) for call in plain["calls"]]


def test_a_tool_that_the_choice_forbids_is_not_called(speaker: openai.OpenAI) -> None:
    answer = ask(speaker, tool_choice="none", max_tokens=40)
    assert answer["calls"] == []
    assert answer["content"]
    assert answer == ask_stream(speaker, tool_choice="none", max_tokens=40)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "save"}}])
def test_a_call_that_must_come_comes_from_any_model(
    client: openai.OpenAI, model_paths: dict[str, Path], choice: Any
) -> None:
    save: ChatCompletionToolParam = {
        "type": "function",
        "function": {
            "name": "save",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"state": {"enum": ["on", "off"]}, "times": {"enum": [1, 2]}},
                "required": ["state", "times"],
                "additionalProperties": False,
            },
        },
    }
    for path in model_paths.values():
        asked = {
            "model": path.name,
            "tools": [save],
            "tool_choice": choice,
            "parallel_tool_calls": False,
            "max_tokens": 200,
        }
        answer = ask(client, **asked)
        assert (answer["reason"], answer["content"]) == ("tool_calls", ""), answer
        [call] = answer["calls"]
        assert call["name"] == "save"
        assert json.loads(call["arguments"])["state"] in ("on", "off")
        assert ask_stream(client, **asked) == answer


def test_a_schema_that_a_required_call_cannot_keep_to_is_refused_by_its_parameter(
    speaker: openai.OpenAI,
) -> None:
    parameters = {
        "type": "object",
        "properties": {"colour": {"type": "string", "format": "colour"}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    paint = {"name": "paint", "parameters": parameters, "strict": True}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(speaker, tools=[{"type": "function", "function": paint}], tool_choice="required")
    assert (refused.value.param, refused.value.code) == ("tools", "invalid_grammar")


def test_a_tool_loop_ends_in_an_answer(speaker: openai.OpenAI) -> None:
    [choice] = speaker.chat.completions.create(
        model="default", messages=ASKED, tools=[WEATHER], tool_choice="required", temperature=0
    ).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    [call, *_] = choice.message.tool_calls
    assert call.type == "function"
    assert "city" in json.loads(call.function.arguments)
    told: list[Any] = [
        *ASKED,
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    [closing] = speaker.chat.completions.create(
        model="default", messages=told, tools=[WEATHER], tool_choice="none", temperature=0
    ).choices
    assert closing.finish_reason == "stop"
    assert closing.message.content


@pytest.mark.parametrize("city", ["Paris", "Tokyo", "Oslo"])
def test_a_model_that_is_free_to_calls_the_weather_tool_and_tells_what_it_says(
    speaker: openai.OpenAI, city: str
) -> None:
    asked: list[Any] = [{"role": "user", "content": f"What is the weather in {city}?"}]
    answer = ask(speaker, messages=asked)
    assert (answer["reason"], answer["content"]) == ("tool_calls", "")
    [call] = answer["calls"]
    assert call["name"] == "get_weather"
    assert json.loads(call["arguments"]) == {"city": city}
    assert ask_stream(speaker, messages=asked) == answer

    calls = [{"id": "call_1", "type": "function", "function": call}]
    asked += [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    closing = ask(speaker, messages=asked)
    assert (closing["reason"], closing["calls"]) == ("stop", [])
    assert city in closing["content"]
    assert "sunny" in closing["content"]
    assert ask_stream(speaker, messages=asked) == closing


def test_what_was_said_in_an_earlier_turn_is_known_in_a_later_one(speaker: openai.OpenAI) -> None:
    said: list[Any] = []
    for words in ("Hello, my name is Anna.", "What is my name?"):
        said.append({"role": "user", "content": words})
        answer = ask(speaker, messages=said, tools=openai.omit)
        assert answer["reason"] == "stop"
        assert "Anna" in answer["content"]
        said.append({"role": "assistant", "content": answer["content"]})


def test_a_call_that_a_model_opens_by_itself_keeps_to_its_schema(speaker: openai.OpenAI) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Lima", "Quito"]}},
        "required": ["city"],
    }
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    for choice in ("auto", openai.omit):
        answer = ask(speaker, tools=[tool], tool_choice=choice)
        assert answer["reason"] == "tool_calls"
        for call in answer["calls"]:
            assert json.loads(call["arguments"])["city"] in ("Lima", "Quito")
        assert ask_stream(speaker, tools=[tool], tool_choice=choice) == answer
