"""Timings of one request: when it was due, when each piece of text came, how it ended."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

EVENT_END = b"\n\n"
DATA = b"data: "
CHAT = "/v1/chat/completions"


class TextDelta(msgspec.Struct):
    """The delta of a chunk."""

    content: str | None = None
    reasoning: str | None = None


class Choice(msgspec.Struct):
    """The choice of a chunk."""

    delta: TextDelta = msgspec.field(default_factory=TextDelta)


class Counts(msgspec.Struct):
    """Token counts of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Part(msgspec.Struct):
    """A chunk of a stream, a whole response, or an error; only the fields that are measured."""

    choices: list[Choice] = []
    usage: Counts | None = None
    error: Any = None


PARTS = msgspec.json.Decoder(Part)


@dataclass
class Timing:
    """Times in seconds of the system's monotonic clock. `error` is its kind, None for success."""

    due_at: float
    text_at: list[float] = field(default_factory=list)
    ended_at: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    error: str | None = None

    @property
    def gaps(self) -> Iterator[float]:
        """Between one piece of text and the next."""
        return (later - earlier for earlier, later in itertools.pairwise(self.text_at))

    def take(self, part: Part, now: float) -> None:
        """Record a chunk, or the whole body."""
        if part.error is not None:
            code = part.error.get("code") if isinstance(part.error, dict) else part.error
            self.error = f"{self.error or 'in the stream:'} {code}"
        elif part.choices and (part.choices[0].delta.content or part.choices[0].delta.reasoning):
            self.text_at.append(now)
        if part.usage is not None:
            self.prompt_tokens = part.usage.prompt_tokens
            self.tokens = part.usage.completion_tokens


async def ask(client: httpx.AsyncClient, body: dict[str, Any], due_at: float) -> Timing:
    """Send one chat request and read the whole response. Server errors are recorded, not raised."""
    timing = Timing(due_at)
    try:
        async with client.stream("POST", CHAT, json=body) as answer:
            if answer.status_code == 200 and body.get("stream"):
                await read_stream(answer, timing)
            else:
                timing.error = None if answer.status_code == 200 else str(answer.status_code)
                timing.take(PARTS.decode(await answer.aread()), time.perf_counter())
    except (httpx.HTTPError, msgspec.DecodeError) as error:
        timing.error = type(error).__name__
    timing.ended_at = time.perf_counter()
    return timing


async def read_stream(answer: httpx.Response, timing: Timing) -> None:
    """Read events to the end; bytes as they come, since the client shares the machine."""
    rest, last = b"", b""
    async for piece in answer.aiter_raw():
        now = time.perf_counter()
        *events, rest = (rest + piece).split(EVENT_END)
        for event in events:
            last = event
            if event.startswith(DATA + b"{"):
                timing.take(PARTS.decode(event[len(DATA) :]), now)
    if timing.error is None and last != DATA + b"[DONE]":
        timing.error = "no [DONE]"
