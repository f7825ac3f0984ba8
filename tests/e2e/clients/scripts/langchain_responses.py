"""`ChatOpenAI` with `use_responses_api`: a tool and its result, a stream, structured output."""

from __future__ import annotations

import sys
from typing import Any, Literal

import openai
from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, print_report, weather_in
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Mood(BaseModel):
    word: Literal["good", "bad"]


def usage_of(message: AIMessage) -> dict[str, Any]:
    return {**(message.usage_metadata or {})}


def main(url: str) -> None:
    def chat(model: str = MODEL, **settings: Any) -> ChatOpenAI:
        return ChatOpenAI(
            model=model,
            base_url=url,
            api_key=KEY,
            temperature=0,
            use_responses_api=True,
            **settings,
        )

    weather = StructuredTool.from_function(weather_in, name="get_weather")
    question = HumanMessage(QUESTION)
    call = chat().bind_tools([weather], tool_choice="any").invoke([question])
    result = weather.invoke(call.tool_calls[0])
    closing = chat().bind_tools([weather]).invoke([question, call, result])
    mood = chat().with_structured_output(Mood).invoke(GREETING)
    plain = chat().invoke(GREETING)
    whole = AIMessageChunk(content="")
    for chunk in chat().stream(GREETING):
        whole += chunk
    # The second turn by the id of the first.
    by_id = chat(use_previous_response_id=True).invoke([HumanMessage(GREETING), plain, question])
    try:
        chat(ABSENT_MODEL).invoke(GREETING)
    except openai.APIError as error:
        refusal = type(error).__name__
    used, streamed, later = usage_of(plain), usage_of(whole), usage_of(by_id)
    print_report(
        closing=closing.text,
        plain=plain.text,
        streamed=whole.text,
        structured=Mood.model_validate(mood).word,
        continued=later["input_tokens"] > used["input_tokens"],
        counted=used["input_tokens"] + used["output_tokens"] == streamed["total_tokens"],
        error=refusal,
    )


if __name__ == "__main__":
    main(sys.argv[1])
