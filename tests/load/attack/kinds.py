"""The kinds of hostile clients: how many processes each has, and what one of them does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.load.attack import bodies
from tests.load.attack.malformed import MALFORMED
from tests.load.attack.wire import SENT, Target, connected, exchange, head, read_outcome, say, send

# Between one request of a client and its next: what is measured is each request's effect.
PAUSE_S = 1.0
DRIP_PAUSE_S = 0.5
DRIP_BYTES = 1024
FLOOD_PAUSE_S = 0.01
LEAVE_PREPARING_S = 0.05
LEAVE_PREFILLING_S = 0.3
MANY_REQUESTS = 400
SLOW_CONNECTIONS = 200
IDLE_CONNECTIONS = 1000
FLOOD_CONNECTIONS = 4
CHUNKED_CONNECTIONS = 20

Attack = Callable[[Target, int], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Kind:
    """`run` is what one of `clients` processes does, given its number, until it is ended.

    With `has_floor` the clients alone take much of the machine, which is measured, too.
    """

    title: str
    clients: int
    run: Attack
    has_floor: bool = False


async def repeat(target: Target, part: int, make: Callable[[], bytes]) -> None:
    """Send the same body again and again."""
    body = make()
    while True:
        say(await exchange(target, body))
        await asyncio.sleep(PAUSE_S)


async def compile_schemas(target: Target, part: int) -> None:
    """Send a slow schema again and again."""
    await repeat(target, part, partial(bodies.slow_schema, part))


async def ask_much(target: Target, part: int) -> None:
    """Keep 400 long answers going over 400 connections."""

    async def keep(number: int) -> None:
        await repeat(target, part, partial(bodies.long_answer, target.context, number))

    await together(keep, MANY_REQUESTS)


async def hold_body(target: Target, part: int) -> None:
    """Send a large body but for its last byte, then wait."""
    data = head(target, bodies.LARGE_BYTES + 1) + b"x" * bodies.LARGE_BYTES
    while True:
        await hold(target, data)


async def send_chunks(target: Target, part: int) -> None:
    """Send many bodies at once, in chunks of one byte."""
    chunks = (b"1\r\n%c\r\n" % byte for byte in bodies.small())
    data = head(target, None) + b"".join(chunks) + b"0\r\n\r\n"
    await together(lambda _: hold_on(target, data), CHUNKED_CONNECTIONS)


async def drip_bodies(target: Target, part: int) -> None:
    """Send many bodies slowly."""
    start = head(target, bodies.LARGE_BYTES)
    await together(lambda _: drip(target, start, b"x" * DRIP_BYTES), SLOW_CONNECTIONS)


async def drip_headers(target: Target, part: int) -> None:
    """Send many heads slowly, a header at a time."""
    start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    await together(lambda _: drip(target, start, b"X-More: 1\r\n"), SLOW_CONNECTIONS)


async def stay_idle(target: Target, part: int) -> None:
    """Keep many connections open without a request."""
    await together(lambda _: hold_on(target, b""), IDLE_CONNECTIONS)


async def leave_preparing(target: Target, part: int) -> None:
    """Send large prompts and leave while each is prepared."""
    body = bodies.large("word ")
    while True:
        await send_and_leave(target, body, LEAVE_PREPARING_S)


async def leave_prefilling(target: Target, part: int) -> None:
    """Send new long prompts and leave while each is computed."""
    for number in itertools.count():
        body = bodies.long_prompt(target.context, number)
        await send_and_leave(target, body, LEAVE_PREFILLING_S)


async def flood(target: Target, part: int) -> None:
    """Send malformed requests as fast as a loop with short pauses does."""

    async def one(number: int) -> None:
        for data in itertools.cycle(MALFORMED):
            say(SENT)
            with contextlib.suppress(OSError, TimeoutError):
                async with connected(target) as (reader, writer), asyncio.timeout(PAUSE_S):
                    await send(writer, data)
                    say(await read_outcome(reader))
            await asyncio.sleep(FLOOD_PAUSE_S)

    await together(one, FLOOD_CONNECTIONS)


async def together(one: Callable[[int], Awaitable[None]], count: int) -> None:
    """Run `one` for each number below `count`, with descriptors for all."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    await asyncio.gather(*(one(number) for number in range(count)))


async def hold_on(target: Target, data: bytes) -> None:
    """Hold a connection; again when it is closed."""
    while True:
        await hold(target, data)


async def hold(target: Target, data: bytes) -> None:
    """Send this and wait for what comes of it."""
    say(SENT)
    try:
        async with connected(target) as (reader, writer):
            await send(writer, data)
            say(await read_outcome(reader))
    except OSError as error:
        say(type(error).__name__)
    await asyncio.sleep(PAUSE_S)


async def drip(target: Target, start: bytes, piece: bytes) -> None:
    """Send `start`, then `piece` at intervals; again when the connection is closed."""
    while True:
        say(SENT)
        try:
            async with connected(target) as (reader, writer):
                writer.write(start)
                reading = asyncio.create_task(read_outcome(reader))
                while not reading.done():
                    writer.write(piece)
                    await asyncio.wait([reading], timeout=DRIP_PAUSE_S)
                say(reading.result())
        except OSError as error:
            say(type(error).__name__)
        await asyncio.sleep(PAUSE_S)


async def send_and_leave(target: Target, body: bytes, stay_s: float) -> None:
    """Send a request and disconnect after `stay_s`, unless the response ends earlier."""
    outcome = "left"
    say(SENT)
    try:
        async with connected(target) as (reader, writer):
            await send(writer, head(target, len(body)) + body)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(stay_s):
                    outcome = await read_outcome(reader)
    except OSError as error:
        outcome = type(error).__name__
    say(outcome)
    await asyncio.sleep(0 if outcome == "left" else PAUSE_S)


def sending(make: Callable[[], bytes]) -> Attack:
    """A client that repeats one body."""
    return partial(repeat, make=make)


KINDS = {
    "n128": Kind("600 KB prompt, n=128", 1, sending(bodies.repeated)),
    "letter": Kind("2 x 15 MB of one letter", 2, sending(partial(bodies.large, "a"))),
    "words": Kind("2 x 15 MB of words", 2, sending(partial(bodies.large, "some words "))),
    "spaces": Kind("2 x 15 MB of spaces", 2, sending(partial(bodies.large, " "))),
    "emoji": Kind("2 x 15 MB of emoji", 2, sending(partial(bodies.large, "😀"))),
    "messages": Kind("250,000 messages", 1, sending(bodies.many_messages), has_floor=True),
    "fields": Kind("1,000,000 unknown fields", 1, sending(bodies.many_fields)),
    "chunks": Kind("20 bodies in 20,000 chunks", 1, send_chunks),
    "schemas": Kind("12 slow schemas", 12, compile_schemas),
    "requests": Kind("400 requests, 400 connections", 1, ask_much, has_floor=True),
    "bodies": Kind("60 unfinished bodies of 15 MB", 60, hold_body, has_floor=True),
    "slow-bodies": Kind("200 slow bodies", 1, drip_bodies),
    "slow-headers": Kind("200 slow heads", 1, drip_headers),
    "idle": Kind("1,000 idle connections", 1, stay_idle),
    "tools": Kind("10,000 tools", 1, sending(bodies.many_tools)),
    "leave-preparing": Kind("leaves while 15 MB are prepared", 2, leave_preparing, has_floor=True),
    "leave-prefilling": Kind("leaves in the prefill", 2, leave_prefilling, has_floor=True),
    "malformed": Kind("malformed requests", 1, flood),
}
