"""The requests of the soak: completions of many kinds, each with one expected answer."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from tests.prompts import PROMPTS

STOP_CHARACTERS = 3


@dataclass(frozen=True)
class Longest:
    """The most words of a prompt and tokens of an answer."""

    words: int = 600
    tokens: int = 400


@dataclass(frozen=True)
class Case:
    """One request, greedy or sampled with a seed: its answer is always the same."""

    number: int
    prompt: str
    tokens: int
    seed: int | None
    stop: str | None = None

    def body(self, *, stream: bool) -> dict[str, Any]:
        """The request body."""
        body: dict[str, Any] = {"model": "default", "prompt": self.prompt}
        body |= {"max_tokens": self.tokens}
        body |= {"temperature": 0} if self.seed is None else {"seed": self.seed}
        if self.stop:
            body |= {"stop": self.stop}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


def draw_cases(chance: random.Random, count: int, longest: Longest) -> list[Case]:
    """`count` cases, short and long, no two with the same prompt."""
    return [draw_case(chance, number, longest) for number in range(count)]


def draw_case(chance: random.Random, number: int, longest: Longest) -> Case:
    """One case; lengths are drawn so that each order of magnitude comes as often."""
    words = round(longest.words ** chance.random())
    return Case(
        number,
        prompt=f"{number} {chance.choice(PROMPTS)} " + "many words " * (words // 2),
        tokens=round(longest.tokens ** chance.random()),
        seed=chance.choice([None, None, number]),
    )


def with_stop(chance: random.Random, case: Case, text: str) -> Case:
    """The case with a stop string out of its own answer, where that is long enough."""
    if len(text) < 2 * STOP_CHARACTERS:
        return case
    start = chance.randrange(len(text) - STOP_CHARACTERS)
    return replace(case, stop=text[start : start + STOP_CHARACTERS])
