"""llama-index: `FunctionAgent` over `OpenAILike`, structured output, a stream and a refusal."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Literal

import openai
from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, print_report, weather_in
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Mood(BaseModel):
    word: Literal["good", "bad"]


async def main(url: str) -> None:
    def chat(model: str, **settings: Any) -> OpenAILike:
        common = {"api_base": url, "api_key": KEY}
        flags = {"is_chat_model": True, "is_function_calling_model": True}
        return OpenAILike(model=model, **common, **flags, **settings)

    weather = FunctionTool.from_defaults(weather_in, name="get_weather")
    closing = await FunctionAgent(tools=[weather], llm=chat(MODEL)).run(user_msg=QUESTION)
    messages = [ChatMessage(role="user", content=GREETING)]
    mood = chat(MODEL, should_use_structured_outputs=True).as_structured_llm(Mood).chat(messages)
    fixed = chat(MODEL, temperature=0)
    try:
        chat(ABSENT_MODEL).chat(messages)
    except openai.APIError as error:
        refusal = type(error).__name__
    print_report(
        closing=str(closing),
        plain=fixed.chat(messages).message.content,
        streamed="".join(chunk.delta or "" for chunk in fixed.stream_chat(messages)),
        structured=mood.raw.word,
        error=refusal,
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
