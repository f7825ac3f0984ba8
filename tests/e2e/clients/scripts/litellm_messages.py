"""LiteLLM through Messages: a tool in two turns, a stream beside a plain answer, a refusal."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Literal

import litellm
import openai
from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, WEATHER, print_report, weather_in
from pydantic import BaseModel


class Mood(BaseModel):
    word: Literal["good", "bad"]


async def ask_as_is(url: str) -> str:
    """The text of an answer that LiteLLM passes on as Anthropic's API gives it."""
    answer: Any = await litellm.anthropic_messages(
        model=f"anthropic/{MODEL}",
        messages=[{"role": "user", "content": GREETING}],
        max_tokens=40,
        api_base=url,
        api_key=KEY,
    )
    return "".join(block["text"] for block in answer["content"])


def main(url: str) -> None:
    # It adds the path itself.
    base = url.removesuffix("/v1")

    def ask(messages: list[Any], model: str = MODEL, **more: Any) -> Any:
        return litellm.completion(
            f"anthropic/{model}", messages, api_base=base, api_key=KEY, max_tokens=60, **more
        )

    def ask_greeting(**more: Any) -> Any:
        return ask([{"role": "user", "content": GREETING}], **more)

    asked: list[Any] = [{"role": "user", "content": QUESTION}]
    calling = ask(asked, tools=[WEATHER]).choices[0].message
    asked.append(calling)
    for call in calling.tool_calls:
        told = weather_in(**json.loads(call.function.arguments))
        asked.append({"role": "tool", "tool_call_id": call.id, "content": told})
    closing = ask(asked, tools=[WEATHER])
    chunks = ask_greeting(temperature=0, stream=True)
    try:
        ask_greeting(model=ABSENT_MODEL)
    except openai.APIError as error:
        refusal = type(error).__name__
    structured = ask_greeting(response_format=Mood).choices[0].message.content
    print_report(
        closing=closing.choices[0].message.content,
        plain=ask_greeting(temperature=0).choices[0].message.content,
        streamed="".join(chunk.choices[0].delta.content or "" for chunk in chunks),
        structured=json.loads(structured)["word"],
        messages=asyncio.run(ask_as_is(base)),
        error=refusal,
    )


if __name__ == "__main__":
    main(sys.argv[1])
