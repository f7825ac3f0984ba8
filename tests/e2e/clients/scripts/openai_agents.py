"""openai-agents over /v1/responses: a tool, a stream, structured output and a refusal."""

from __future__ import annotations

import asyncio
import sys
from typing import Literal

import openai
from agents import (
    Agent,
    ModelSettings,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, cities, print_report, weather_in
from pydantic import BaseModel

EVENTS = {"raw_response_event", "run_item_stream_event", "agent_updated_stream_event"}


class Mood(BaseModel):
    word: Literal["good", "bad"]


async def main(url: str) -> None:
    set_tracing_disabled(True)
    set_default_openai_client(openai.AsyncOpenAI(base_url=url, api_key=KEY), use_for_tracing=False)
    weather = function_tool(weather_in, name_override="get_weather")
    exact = ModelSettings(temperature=0)
    agent = Agent(name="weather", model=MODEL, tools=[weather], model_settings=exact)
    closing = await Runner.run(agent, QUESTION)
    streaming = Runner.run_streamed(agent, QUESTION)
    kinds = {event.type async for event in streaming.stream_events()}
    moody = Agent(name="mood", model=MODEL, output_type=Mood, model_settings=exact)
    mood = await Runner.run(moody, GREETING)
    again = await Runner.run(agent, GREETING, previous_response_id=closing.last_response_id)
    try:
        await Runner.run(Agent(name="absent", model=ABSENT_MODEL), GREETING)
    except openai.APIError as error:
        refusal = type(error).__name__
    print_report(
        closing=closing.final_output,
        plain=closing.final_output,
        streamed=streaming.final_output,
        # Once by each run.
        city=" ".join(set(cities)),
        called=len(cities) == 2 and kinds == EVENTS,
        structured=mood.final_output.word,
        continued=again.final_output,
        error=refusal,
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
