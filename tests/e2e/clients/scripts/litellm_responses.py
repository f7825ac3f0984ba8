"""LiteLLM's SDK through Responses: a tool in two turns, a turn gone on from, a stream."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import litellm
import openai
from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, print_report, weather_in
from pydantic import BaseModel

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


class Mood(BaseModel):
    word: Literal["good", "bad"]


def text_of(response: Any) -> str:
    """The text of a response's messages."""
    messages = [item for item in response.output if item.type == "message"]
    return "".join(part.text for message in messages for part in message.content)


def main(url: str) -> None:
    def ask(input: Any, model: str = MODEL, **more: Any) -> Any:
        return litellm.responses(
            input=input, model=f"openai/{model}", api_base=url, api_key=KEY, **more
        )

    calling = ask(QUESTION, tools=[WEATHER])
    results = [
        {
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": weather_in(**json.loads(item.arguments)),
        }
        for item in calling.output
        if item.type == "function_call"
    ]
    by_hand = [{"role": "user", "content": QUESTION}, *map(dump, calling.output), *results]
    closing = ask(by_hand, tools=[WEATHER])
    continued = ask(results, tools=[WEATHER], previous_response_id=calling.id)
    events = ask(GREETING, temperature=0, stream=True)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    try:
        ask(GREETING, model=ABSENT_MODEL)
    except openai.APIError as error:
        refusal = type(error).__name__
    print_report(
        closing=text_of(closing),
        continued="sunny" in text_of(continued),
        plain=text_of(ask(GREETING, temperature=0)),
        streamed="".join(deltas),
        structured=json.loads(text_of(ask(GREETING, text_format=Mood)))["word"],
        error=refusal,
    )


def dump(item: Any) -> Any:
    """An item as it is sent again."""
    return item.model_dump(exclude_none=True)


if __name__ == "__main__":
    main(sys.argv[1])
