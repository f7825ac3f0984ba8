"""LiteLLM's SDK: a tool in two turns, structured output, a stream and a refusal."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import litellm
import openai
from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, WEATHER, print_report, weather_in
from pydantic import BaseModel


class Mood(BaseModel):
    word: Literal["good", "bad"]


def main(url: str) -> None:
    def ask(messages: list[Any], model: str = MODEL, **more: Any) -> Any:
        return litellm.completion(f"openai/{model}", messages, api_base=url, api_key=KEY, **more)

    def ask_greeting(**more: Any) -> Any:
        return ask([{"role": "user", "content": GREETING}], **more)

    asked: list[Any] = [{"role": "user", "content": QUESTION}]
    calling = ask(asked, tools=[WEATHER]).choices[0].message
    asked.append(calling)
    for call in calling.tool_calls:
        told = weather_in(**json.loads(call.function.arguments))
        name = call.function.name
        asked.append({"role": "tool", "tool_call_id": call.id, "name": name, "content": told})
    closing = ask(asked, tools=[WEATHER])
    chunks = ask_greeting(temperature=0, stream=True, stream_options={"include_usage": True})
    try:
        ask_greeting(model=ABSENT_MODEL)
    except openai.APIError as error:
        refusal = type(error).__name__
    print_report(
        closing=closing.choices[0].message.content,
        plain=ask_greeting(temperature=0).choices[0].message.content,
        streamed="".join(chunk.choices[0].delta.content or "" for chunk in chunks),
        structured=json.loads(ask_greeting(response_format=Mood).choices[0].message.content)[
            "word"
        ],
        error=refusal,
    )


if __name__ == "__main__":
    main(sys.argv[1])
