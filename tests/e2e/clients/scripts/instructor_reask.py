"""`instructor`: a re-ask, a stream of objects, structured output and a refusal."""

from __future__ import annotations

import sys
from typing import Literal

import instructor
import openai
from asked import ABSENT_MODEL, GREETING, KEY, MODEL, QUESTION, cities, print_report
from instructor.core import InstructorRetryException
from pydantic import BaseModel, field_validator


class Mood(BaseModel):
    word: Literal["good", "bad"]


class Weather(BaseModel):
    """Get the weather of a city"""

    city: str


class DoubtedWeather(Weather):
    """Get the weather of a city"""

    @field_validator("city")
    @classmethod
    def refuse_the_first(cls, city: str) -> str:
        """The first city is refused, so that `instructor` asks again."""
        cities.append(city)
        if len(cities) == 1:
            raise ValueError("Say it again.")
        return city


def main(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key=KEY)
    tools = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    schemas = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
    asked = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    greeted = {**asked, "messages": [{"role": "user", "content": GREETING}]}
    tools.create(**asked, response_model=DoubtedWeather, max_retries=1)
    whole = schemas.create(**greeted, response_model=Mood)
    *_, streamed = schemas.create_partial(**greeted, response_model=Mood)
    try:
        tools.create(**{**asked, "model": ABSENT_MODEL}, response_model=Weather)
    except InstructorRetryException as error:
        refusal = type(error.__cause__).__name__
    first, *again = cities
    cities[:] = [first]
    print_report(
        reasked=len(again),
        plain=whole.word,
        streamed=streamed.word,
        structured=whole.word,
        error=refusal,
    )


if __name__ == "__main__":
    main(sys.argv[1])
