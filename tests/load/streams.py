"""One streaming chat, measured: when it was sent, when each event came, what it used."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

DATA = "data: {"


@dataclass
class StreamTimes:
    """Times of one chat in seconds of the monotonic clock; `tokens` by its usage event."""

    sent_at: float
    text_at: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str | None = None


async def stream_chat(client: httpx.AsyncClient, url: str, asked: dict[str, Any]) -> StreamTimes:
    """Send one chat and read its stream to the end."""
    times = StreamTimes(time.perf_counter())
    body = {**asked, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith(DATA):
                    take_event(times, msgspec.json.decode(line.removeprefix("data: ")))
    except httpx.HTTPError as error:
        times.error = type(error).__name__
    return times


def take_event(times: StreamTimes, event: dict[str, Any]) -> None:
    """Note a chunk's text or usage, or the error that ended the stream."""
    if "error" in event:
        times.error = str(event["error"].get("code"))
    elif event["choices"] and event["choices"][0]["delta"].get("content"):
        times.text_at.append(time.perf_counter())
    if usage := event.get("usage"):
        times.tokens = usage["completion_tokens"]
