"""A request without a server: its messages are in a queue."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Scope

from service.config.settings import Settings
from service.http.body_budget import SMALL_BODY_BYTES, BodyBudget
from service.http.request_body import RequestReaderMiddleware


def pieces(size: int) -> list[Message]:
    """A body of `size` bytes in the messages of a server."""
    count, rest = divmod(size, SMALL_BODY_BYTES)
    assert rest == 0
    piece = {"type": "http.request", "body": b"x" * SMALL_BODY_BYTES, "more_body": True}
    return [*[piece] * count, {"type": "http.request"}]


def queue(*messages: Message) -> asyncio.Queue[Message]:
    """The messages of a server, which sends nothing after them."""
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    for message in messages:
        incoming.put_nowait(message)
    return incoming


async def find_client(scope: Scope) -> str:
    """One client sends all requests."""
    return "one"


async def drive(
    app: ASGIApp,
    incoming: asyncio.Queue[Message],
    settings: Settings | None = None,
    budget: BodyBudget | None = None,
) -> None:
    """Run `app` in the middleware for one chunked request."""

    async def send(message: Message) -> None:
        await asyncio.sleep(0)

    scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
    settings = settings or Settings()
    budget = budget or BodyBudget(settings.body_memory_bytes)
    await RequestReaderMiddleware(app, settings, budget, find_client)(scope, incoming.get, send)
