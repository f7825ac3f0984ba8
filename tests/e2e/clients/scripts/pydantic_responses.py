"""pydantic-ai's `openai:`, which is /v1/responses: a tool, a stream, structured output."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Literal

from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, print_report, weather_in
from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings, NativeOutput, Tool
from pydantic_ai.exceptions import ModelHTTPError


class Mood(BaseModel):
    word: Literal["good", "bad"]


async def main(url: str) -> None:
    os.environ.update(OPENAI_BASE_URL=url, OPENAI_API_KEY=KEY)
    model = f"openai:{MODEL}"
    closing = await Agent(model, tools=[Tool(weather_in, name="get_weather")]).run(QUESTION)
    called = await Agent(model, output_type=Mood).run(GREETING)
    formatted = await Agent(model, output_type=NativeOutput(Mood)).run(GREETING)
    greeter = Agent(model, model_settings=ModelSettings(temperature=0))
    async with greeter.run_stream(GREETING) as stream:
        streamed = "".join([text async for text in stream.stream_text(delta=True)])
    try:
        await Agent(f"openai:{ABSENT_MODEL}").run(GREETING)
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
