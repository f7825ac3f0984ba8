"""LangChain's `ChatAnthropic` against the real service."""

from __future__ import annotations

from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from pydantic import BaseModel, SecretStr

from tests.e2e.daemon import Daemon

MESSAGES = [SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage("Hi"), HumanMessage("So?")]


class Mood(BaseModel):
    """How one is."""

    happy: bool


def make_chat(daemon: Daemon, **fields: Any) -> ChatAnthropic:
    chosen = {"temperature": 0, "max_tokens": 200, **fields}
    return ChatAnthropic(
        model_name="default",
        base_url=daemon.url,
        api_key=SecretStr("none"),
        max_retries=0,
        **chosen,
    )


def test_a_stream_adds_up_to_the_answer_and_its_usage(demo: Daemon) -> None:
    chat = make_chat(demo)
    answer = chat.invoke(MESSAGES)
    chunks = list(chat.stream(MESSAGES))
    assert "".join(chunk.text for chunk in chunks) == answer.text
    assert answer.usage_metadata is not None
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert sum(usage["input_tokens"] for usage in usages) == answer.usage_metadata["input_tokens"]
    assert sum(usage["output_tokens"] for usage in usages) == answer.usage_metadata["output_tokens"]


def test_one_likely_token_is_greedy(demo: Daemon) -> None:
    greedy = make_chat(demo).invoke(MESSAGES).text
    assert make_chat(demo, temperature=1, top_k=1).invoke(MESSAGES).text == greedy


def test_a_bound_tool_is_called_and_its_result_is_taken(demo: Daemon) -> None:
    @tool
    def get_weather(city: str) -> str:
        """Get the weather of a city"""
        return "sunny"

    told: list[BaseMessage] = [HumanMessage("What is the weather in Oslo?")]
    told.append(
        calling := make_chat(demo).bind_tools([get_weather], tool_choice="any").invoke(told)
    )
    (call,) = calling.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})
    told.append(get_weather.invoke(call))
    assert "sunny" in make_chat(demo).bind_tools([get_weather]).invoke(told).text


def test_structured_output_is_an_instance(demo: Daemon) -> None:
    for method in ("function_calling", "json_schema"):
        chat = make_chat(demo).with_structured_output(Mood, method=method)
        assert isinstance(chat.invoke("Are you happy?"), Mood)
