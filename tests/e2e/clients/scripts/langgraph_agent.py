"""LangGraph's agent over `ChatOpenAI`: a tool, structured output, a stream and a refusal."""

from __future__ import annotations

import sys
from typing import Any, Literal

import openai
from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, print_report, weather_in
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Mood(BaseModel):
    word: Literal["good", "bad"]


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def main(url: str) -> None:
    def chat(model: str, **settings: Any) -> ChatOpenAI:
        return ChatOpenAI(model=model, base_url=url, api_key=KEY, **settings)

    weather = StructuredTool.from_function(weather_in, name="get_weather")
    closing = create_agent(chat(MODEL), tools=[weather]).invoke(said(QUESTION))
    mood = create_agent(chat(MODEL), response_format=Mood).invoke(said(GREETING))
    greeter = create_agent(chat(MODEL, temperature=0))
    chunks = [chunk.content for chunk, _ in greeter.stream(said(GREETING), stream_mode="messages")]
    try:
        create_agent(chat(ABSENT_MODEL)).invoke(said(GREETING))
    except openai.APIError as error:
        refusal = type(error).__name__
    print_report(
        closing=closing["messages"][-1].content,
        plain=greeter.invoke(said(GREETING))["messages"][-1].content,
        streamed="".join(chunks),
        structured=mood["structured_response"].word,
        error=refusal,
    )


if __name__ == "__main__":
    main(sys.argv[1])
