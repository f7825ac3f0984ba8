"""Other clients: pydantic-ai, and the helpers of the `openai` package."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import openai
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.output import NativeOutput
from pydantic_ai.providers.openai import OpenAIProvider

from tests.e2e.daemon import Daemon

TOKENS = 200
QUESTION = "What is the weather in Paris?"


class Mood(BaseModel):
    word: Literal["good", "bad"]


@pytest.fixture
async def speaker(demo: Daemon) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{demo.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def model(speaker: openai.AsyncOpenAI) -> OpenAIChatModel:
    settings = ModelSettings(temperature=0, max_tokens=TOKENS)
    return OpenAIChatModel(
        "default", provider=OpenAIProvider(openai_client=speaker), settings=settings
    )


@pytest.mark.anyio
async def test_pydantic_ai_gets_structured_output(model: OpenAIChatModel) -> None:
    agent = Agent(model, output_type=NativeOutput(Mood))
    answer = await agent.run("How are you?")
    assert answer.output.word in ("good", "bad")


@pytest.mark.anyio
async def test_pydantic_ai_calls_a_tool_and_gets_the_answer(model: OpenAIChatModel) -> None:
    asked: list[str] = []
    agent = Agent(model)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Get the weather in a city."""
        asked.append(city)
        return "sunny"

    answer = await agent.run(QUESTION)
    assert asked == ["Paris"]
    assert "sunny" in answer.output


@pytest.mark.anyio
async def test_the_stream_helper_parses_and_is_the_plain_answer(
    speaker: openai.AsyncOpenAI,
) -> None:
    plain = await speaker.chat.completions.parse(
        model="default",
        messages=[{"role": "user", "content": "How are you?"}],
        temperature=0,
        max_tokens=TOKENS,
        response_format=Mood,
    )
    async with speaker.chat.completions.stream(
        model="default",
        messages=[{"role": "user", "content": "How are you?"}],
        temperature=0,
        max_tokens=TOKENS,
        response_format=Mood,
    ) as stream:
        streamed = await stream.get_final_completion()
    assert streamed.choices[0].message.parsed == plain.choices[0].message.parsed
    assert plain.choices[0].message.parsed is not None


@pytest.mark.anyio
async def test_a_raw_response_has_its_id_and_its_time(speaker: openai.AsyncOpenAI) -> None:
    raw = await speaker.chat.completions.with_raw_response.create(
        model="default", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
    )
    assert raw.headers["x-request-id"]
    assert float(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse().choices[0].message.role == "assistant"
