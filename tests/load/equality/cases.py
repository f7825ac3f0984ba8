"""The requests whose answers are compared, and how each answer is read."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx
import msgspec

from tests.prompts import PROMPTS

MODEL = "default_model"
EVENT_END = b"\n\n"
DATA = b"data: "
DONE = b"[DONE]"
SEEDED: Mapping[str, float] = {"temperature": 0.8, "top_p": 0.95}
LONGEST_WORDS = 600
SHORTEST_WORDS = 8


@dataclass(frozen=True)
class Case:
    """A conversation, greedy or with a seed."""

    number: int
    instructions: str
    question: str
    seed: int | None
    tokens: int

    def body(self) -> dict[str, Any]:
        """The request, as a stream with its usage."""
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": self.instructions},
                {"role": "user", "content": self.question},
            ],
            "max_tokens": self.tokens,
            "ignore_eos": True,
            "logprobs": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return body | ({"temperature": 0} if self.seed is None else {**SEEDED, "seed": self.seed})

    def sibling(self) -> Case:
        """Another question with the same instructions."""
        return replace(self, question=f"Something else: {self.question[::-1]}")


def draw_cases(count: int, tokens: int) -> list[Case]:
    """`count` cases, short and long, every second one greedy; no two begin with the same words."""
    chance = random.Random("equality")
    return [
        Case(
            number,
            f"{number} " + "many words " * (words_of(chance) // 2),
            f"{chance.choice(PROMPTS)} {'and more ' * (words_of(chance) // 8)}",
            seed=number if number % 2 else None,
            tokens=tokens,
        )
        for number in range(count)
    ]


def words_of(chance: random.Random) -> int:
    """A number of words, drawn so that each order of magnitude comes as often."""
    share = chance.random()
    return round(math.exp(math.log(SHORTEST_WORDS) * (1 - share) + math.log(LONGEST_WORDS) * share))


@dataclass(frozen=True)
class Answer:
    """An answer's tokens with their log-probabilities, and the cached tokens of its prompt."""

    tokens: list[bytes]
    logprobs: list[float]
    cached_tokens: int
    error: str | None = None


# ---------------------------------------------------------------- reading


class TokenLogprob(msgspec.Struct):
    """One token."""

    bytes: list[int] | None = None
    logprob: float = 0.0


class Logprobs(msgspec.Struct):
    """The tokens of a chunk."""

    content: list[TokenLogprob] | None = None


class Choice(msgspec.Struct):
    """A chunk's choice."""

    logprobs: Logprobs | None = None


class Details(msgspec.Struct):
    """Of the prompt's tokens."""

    cached_tokens: int = 0


class Usage(msgspec.Struct):
    """Token counts."""

    prompt_tokens_details: Details = msgspec.field(default_factory=Details)


class Chunk(msgspec.Struct):
    """A chunk of the stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


CHUNKS = msgspec.json.Decoder(Chunk)


async def ask(
    client: httpx.AsyncClient, case: Case, on_token: Callable[[], None] = lambda: None
) -> Answer:
    """Send a case and read its answer; `on_token` is called for each chunk with tokens."""
    found: list[TokenLogprob] = []
    cached, rest, ended, fault = 0, b"", False, ""
    async with client.stream("POST", "/v1/chat/completions", json=case.body()) as response:
        if response.status_code != httpx.codes.OK:
            return Answer([], [], 0, f"{response.status_code} {(await response.aread())[:200]!r}")
        async for part in response.aiter_raw():
            *events, rest = (rest + part).split(EVENT_END)
            for event in events:
                _, data, text = event.partition(DATA)
                if text == DONE:
                    ended = True
                elif data:
                    chunk = CHUNKS.decode(text)
                    fault = str(chunk.error) if chunk.error else fault
                    if chunk.usage is not None:
                        cached = chunk.usage.prompt_tokens_details.cached_tokens
                    new = [t for c in chunk.choices if c.logprobs for t in c.logprobs.content or []]
                    found += new
                    if new:
                        on_token()
    tokens = [bytes(token.bytes or []) for token in found]
    error = fault or (None if ended else "no end")
    return Answer(tokens, [token.logprob for token in found], cached, error)
