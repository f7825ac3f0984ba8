"""pydantic-ai: a streamed agent with a tool, structured output and a refusal."""

from __future__ import annotations

import asyncio
import sys
from typing import Literal

from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, print_report, weather_in
from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings, NativeOutput, Tool
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Mood(BaseModel):
    word: Literal["good", "bad"]


async def main(url: str) -> None:
    provider = OpenAIProvider(base_url=url, api_key=KEY)
    model = OpenAIChatModel(MODEL, provider=provider)
    agent = Agent(model, tools=[Tool(weather_in, name="get_weather")])
    closing = await agent.run(QUESTION)
    # An output tool, which must be called, and a format of the response.
    called = await Agent(model, output_type=Mood).run(GREETING)
    formatted = await Agent(model, output_type=NativeOutput(Mood)).run(GREETING)
    greeter = Agent(model, model_settings=ModelSettings(temperature=0))
    async with greeter.run_stream(GREETING) as stream:
        streamed = "".join([text async for text in stream.stream_text(delta=True)])
    try:
        await Agent(OpenAIChatModel(ABSENT_MODEL, provider=provider)).run(GREETING)
    except ModelHTTPError as error:
        refusal = type(error).__name__
    print_report(
        closing=closing.output,
        plain=(await greeter.run(GREETING)).output,
        streamed=streamed,
        structured=called.output.word,
        formatted=formatted.output.word,
        error=refusal,
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
