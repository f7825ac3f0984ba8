"""Timings of one request: when it was due, when each piece of text came, how it ended."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from tests.load.apis import APIS, Api, ApiName, Piece

EVENT_END = b"\n\n"
DATA = b"data: "


@dataclass
class Timing:
    """Times in seconds of the system's monotonic clock. `error` is its kind, None for success."""

    due_at: float
    text_at: list[float] = field(default_factory=list)
    ended_at: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    error: str | None = None
    cached_tokens: int | None = None

    @property
    def gaps(self) -> Iterator[float]:
        """Between one piece of text and the next."""
        return (later - earlier for earlier, later in itertools.pairwise(self.text_at))

    def take(self, piece: Piece, now: float) -> None:
        """Record an event, or the whole body."""
        if piece.error is not None:
            self.error = f"{self.error or 'in the stream:'} {piece.error}"
        elif piece.text:
            self.text_at.append(now)
        if piece.prompt_tokens is not None:
            self.prompt_tokens = piece.prompt_tokens
        if piece.tokens is not None:
            self.tokens = piece.tokens
        if piece.cached_tokens is not None:
            self.cached_tokens = piece.cached_tokens


async def ask(
    client: httpx.AsyncClient, body: dict[str, Any], due_at: float, api: ApiName = "chat"
) -> Timing:
    """Send a request, given as one of chat completions, through an API and read its response.

    Server errors are recorded, not raised.
    """
    timing = Timing(due_at)
    sent = APIS[api]
    try:
        async with client.stream("POST", sent.path, json=sent.to_body(body)) as answer:
            if answer.status_code == 200 and body.get("stream"):
                await read_stream(answer, timing, sent)
            else:
                timing.error = None if answer.status_code == 200 else str(answer.status_code)
                timing.take(sent.read_whole(await answer.aread()), time.perf_counter())
    except (httpx.HTTPError, msgspec.DecodeError) as error:
        timing.error = type(error).__name__
    timing.ended_at = time.perf_counter()
    return timing


async def read_stream(answer: httpx.Response, timing: Timing, api: Api) -> None:
    """Read events to the end; bytes as they come, since the client shares the machine."""
    rest, ended = b"", False
    async for chunk in answer.aiter_raw():
        now = time.perf_counter()
        *events, rest = (rest + chunk).split(EVENT_END)
        for event in events:
            _, data, text = event.partition(DATA)
            if data:
                piece = api.read_event(text)
                timing.take(piece, now)
                ended = piece.ends
    if timing.error is None and not ended:
        timing.error = "no end"
