"""Clients that a hostile one must not disturb: steady streams, and a pinger.

`python -m tests.load.bystanders streams` and `... pings` run until SIGTERM, then print what they
saw as JSON. Times are those of the system's monotonic clock. Only the standard library.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.load.attack.bodies import chat
from tests.load.attack.wire import Target, connected, head, send

DATA = b"data: "
PING_EVERY_S = 0.5
AGAIN_AFTER_S = 0.2
STREAM_TOKENS = 1500
# Of the context: the prompt needs the rest.
ANSWER_SHARE = 0.8


@dataclass
class Seen:
    """One request: when it was due, when each text came and its characters, and how it ended.

    `ended_at` is None while it is open; `error` is None unless it failed.
    """

    due_at: float
    text_at: list[float] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    ended_at: float | None = None
    error: str | None = None


async def ask(target: Target, body: bytes, seen: Seen) -> None:
    """Send one streamed request and record what comes."""
    try:
        async with connected(target) as (reader, writer):
            await send(writer, head(target, len(body)) + body)
            status = (await reader.readline()).split()[1:2]
            if status != [b"200"]:
                seen.error = status[0].decode() if status else "closed"
            else:
                await read_events(reader, seen)
    except OSError as error:
        seen.error = type(error).__name__
    seen.ended_at = time.monotonic()


async def read_events(reader: asyncio.StreamReader, seen: Seen) -> None:
    """Record the texts; the framing of chunks between the lines is passed over."""
    done = False
    async for line in reader:
        if line.startswith(DATA + b"{"):
            take(json.loads(line[len(DATA) :]), seen)
        done = done or line.startswith(DATA + b"[DONE]")
    if not done and seen.error is None:
        seen.error = "cut"


def take(event: dict[str, Any], seen: Seen) -> None:
    """Record one event. An answer that ends without text has its first token then."""
    if event.get("error"):
        seen.error = str(event["error"].get("code"))
    for choice in event.get("choices", []):
        text = choice["delta"].get("content") or choice["delta"].get("reasoning") or ""
        if text or (choice.get("finish_reason") and not seen.text_at):
            seen.text_at.append(time.monotonic())
            seen.characters.append(len(text))


async def stream_on(target: Target, number: int, seen: list[Seen]) -> None:
    """One stream after the other."""
    tokens = min(STREAM_TOKENS, round(ANSWER_SHARE * target.context))
    body = chat(f"Stream {number}.", stream=True, max_tokens=tokens, ignore_eos=True)
    while True:
        seen.append(Seen(time.monotonic()))
        await ask(target, body, seen[-1])
        if seen[-1].error:
            await asyncio.sleep(AGAIN_AFTER_S)


async def ping_on(target: Target, seen: list[Seen]) -> None:
    """A request for one token at intervals, whatever became of those before."""
    due_at = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        while True:
            seen.append(Seen(due_at))
            body = chat(f"ping {len(seen)}", stream=True, max_tokens=1)
            tasks.create_task(ask(target, body, seen[-1]))
            due_at += PING_EVERY_S
            await asyncio.sleep(due_at - time.monotonic())


async def run_until_ended(run: Callable[[], Awaitable[None]]) -> None:
    """Run it until SIGTERM."""
    task = asyncio.ensure_future(run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> None:
    """Run the client named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.bystanders", description=__doc__)
    parser.add_argument("role", choices=["streams", "pings"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--context", type=int, default=2048, help="of the model, in tokens")
    parser.add_argument("--streams", type=int, default=8)
    options = parser.parse_args()
    target = Target(options.host, options.port, options.context)
    seen: list[Seen] = []

    async def streams() -> None:
        await asyncio.gather(*(stream_on(target, n, seen) for n in range(options.streams)))

    async def pings() -> None:
        await ping_on(target, seen)

    asyncio.run(run_until_ended(streams if options.role == "streams" else pings))
    print(json.dumps([asdict(one) for one in seen]))


if __name__ == "__main__":
    main()
