"""Asks a service, whose base URL is the argument, as `instructor` does; prints JSON.

It runs in an environment of its own, and imports nothing of the project's.
"""

import json
import sys
from typing import Literal

import instructor
import openai
from pydantic import BaseModel


class Mood(BaseModel):
    word: Literal["good", "bad"]


class Weather(BaseModel):
    """Get the weather of a city"""

    city: str


def main(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    structured = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
    mood = structured.chat.completions.create(
        model="default",
        temperature=0,
        messages=[{"role": "user", "content": "How are you?"}],
        response_model=Mood,
        max_retries=0,
    )
    tools = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    called = tools.chat.completions.create(
        model="default",
        temperature=0,
        messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
        response_model=Weather,
        max_retries=0,
    )
    print(json.dumps({"mood": mood.word, "city": called.city}))


if __name__ == "__main__":
    main(sys.argv[1])
