"""A weather tool, written by hand, that is not in the training corpus: for evaluation only."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from worker.demo.training.corpus import words
from worker.demo.training.corpus.document import Chat, Tool, user
from worker.demo.training.corpus.draw import Draw, Split

TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The name of the city"}},
            "required": ["city"],
        },
    },
}
TOOL_WITH_UNIT: Tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city, for example London"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}
_QUESTIONS = (
    "What is the weather in {0}?",
    "What's the weather like in {0} today?",
    "How is the weather in {0}?",
    "Tell me the weather in {0}.",
    "Can you check the weather in {0}, please?",
)


def _call(name: str, city: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "get_weather", "arguments": {name: city}}}


def chats(count: int) -> Iterator[Chat]:
    """`count` questions for the weather in cities that are not in the training corpus."""
    draw = Draw(random.Random("weather"), Split.HELD_OUT)
    for _ in range(count):
        city = draw.value(words.city)
        tool, name = draw.pick(((TOOL, "city"), (TOOL_WITH_UNIT, "location")))
        call = {"role": "assistant", "content": "", "tool_calls": [_call(name, city)]}
        yield Chat("get_weather", [user(draw.pick(_QUESTIONS).format(city)), call], tools=[tool])
