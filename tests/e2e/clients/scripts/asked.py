"""What each of Python's clients asks, and how it reports; imports nothing of the project's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QUESTION = "What is the weather in Oslo?"
GREETING = "How are you?"
MODEL = "default"
ABSENT_MODEL = "absent"
# Its tokenizer, for the clients that count tokens themselves.
DEMO_MODEL = Path(__file__).parents[4] / "worker/demo/model"
# No client has one, and most want one.
KEY = "none"
# As the tools of chat completions are written.
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}

cities: list[str] = []


def weather_in(city: str) -> str:
    """Get the weather of a city"""
    cities.append(city)
    return "sunny"


def print_report(**report: Any) -> None:
    """Print a report, with the cities that a tool was asked for."""
    print(json.dumps({"city": " ".join(cities), **report}))
