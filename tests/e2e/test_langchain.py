"""LangChain's `ChatOpenAI` against the real service."""

from __future__ import annotations

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.e2e.daemon import Daemon

MESSAGES = [
    SystemMessage("Be brief."),
    HumanMessage("Hello"),
    AIMessage("Hi"),
    HumanMessage("And now?"),
]


def make_chat(daemon: Daemon) -> ChatOpenAI:
    return ChatOpenAI(
        model="default",
        base_url=f"{daemon.url}/v1",
        api_key=SecretStr("none"),
        temperature=0,
        max_completion_tokens=24,
        stream_usage=True,
    )


def test_a_stream_adds_up_to_the_answer_and_carries_its_usage(daemon: Daemon) -> None:
    chat = make_chat(daemon)
    answer = chat.invoke(MESSAGES)
    chunks = list(chat.stream(MESSAGES))
    assert "".join(str(chunk.content) for chunk in chunks) == answer.content
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 24
    [usage] = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert usage["total_tokens"] == answer.usage_metadata["total_tokens"]


def test_a_batch_runs_side_by_side_with_the_texts_of_single_runs(daemon: Daemon) -> None:
    chat = make_chat(daemon)
    questions: list[LanguageModelInput] = [f"Question {n}" for n in range(6)]
    together = [answer.content for answer in chat.batch(questions)]
    assert together == [chat.invoke(question).content for question in questions]


def test_an_agent_loop_over_a_bound_tool_ends_in_an_answer(demo: Daemon) -> None:
    @tool
    def get_weather(city: str) -> str:
        """Get the weather of a city"""
        return "sunny" if city == "Oslo" else "rainy"

    told: list[BaseMessage] = [HumanMessage("What is the weather in Oslo?")]
    agent = make_chat(demo).bind_tools([get_weather])
    told.append(calling := agent.invoke(told))
    assert [(call["name"], call["args"]) for call in calling.tool_calls] == [
        ("get_weather", {"city": "Oslo"})
    ]
    told += [get_weather.invoke(call) for call in calling.tool_calls]
    closing = agent.invoke(told)
    assert closing.tool_calls == []
    assert "sunny" in str(closing.content)
