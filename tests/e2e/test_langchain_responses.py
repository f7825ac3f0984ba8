"""LangChain's `ChatOpenAI` through `/v1/responses`, against the real service."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.e2e.daemon import Daemon

MESSAGES = [SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage("Hi"), HumanMessage("So?")]
QUESTION = HumanMessage("What is the weather in Oslo?")


class Mood(BaseModel):
    """How one is."""

    word: Literal["good", "bad"]


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city"""
    return "sunny"


def make_chat(daemon: Daemon, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="default",
        base_url=f"{daemon.url}/v1",
        api_key=SecretStr("none"),
        temperature=0,
        max_retries=0,
        use_responses_api=True,
        **fields,
    )


def test_a_stream_adds_up_to_the_answer_and_its_usage(demo: Daemon) -> None:
    chat = make_chat(demo)
    answer = chat.invoke(MESSAGES)
    whole = AIMessageChunk(content="")
    for chunk in chat.stream(MESSAGES):
        whole += chunk
    assert answer.text
    assert whole.text == answer.text
    used, streamed = answer.usage_metadata, whole.usage_metadata
    assert used is not None
    assert streamed is not None
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"]
    assert streamed["input_tokens"] == used["input_tokens"]
    assert streamed["output_tokens"] == used["output_tokens"]


def test_a_bound_tool_is_called_and_its_result_is_taken(demo: Daemon) -> None:
    told: list[BaseMessage] = [QUESTION]
    told.append(
        calling := make_chat(demo).bind_tools([get_weather], tool_choice="any").invoke(told)
    )
    (call,) = calling.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})
    told.append(get_weather.invoke(call))
    assert "sunny" in make_chat(demo).bind_tools([get_weather]).invoke(told).text


def test_a_turn_by_the_id_of_the_last_answer_is_the_whole_conversation(demo: Daemon) -> None:
    by_hand = make_chat(demo)
    told: list[BaseMessage] = [HumanMessage("How are you?")]
    told += [by_hand.invoke(told), QUESTION]
    by_id = make_chat(demo, use_previous_response_id=True)
    one, two = by_hand.invoke(told), by_id.invoke(told)
    assert one.text == two.text
    assert one.usage_metadata is not None
    assert two.usage_metadata is not None
    assert one.usage_metadata["input_tokens"] == two.usage_metadata["input_tokens"]


def test_structured_output_is_an_instance(demo: Daemon) -> None:
    for method in ("function_calling", "json_schema"):
        chat = make_chat(demo).with_structured_output(Mood, method=method)
        assert isinstance(chat.invoke("How are you?"), Mood)
