"""How long a refusal takes while the service is full."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import httpx

from tests.load.figures import Percentiles

REFUSALS = 100
TOKENS = 2000
POLL_S = 0.02
COMPLETIONS = "/v1/completions"
ONE_MORE = {"model": "default", "prompt": "x", "max_tokens": 1}


async def time_refusals(client: httpx.AsyncClient, places: int) -> Percentiles:
    """Fill all `places`, then send more requests. When answers have ended, fill them again.

    Raises:
        RuntimeError: a request beyond them was not refused.
    """
    taken_s: list[float] = []
    while len(taken_s) < REFUSALS:
        async with all_taken(client, places):
            while len(taken_s) < REFUSALS:
                began = time.perf_counter()
                answer = await client.post(COMPLETIONS, json=ONE_MORE)
                if answer.status_code == 200 and await in_flight(client) < places:
                    break
                if answer.status_code != 429 or "retry-after" not in answer.headers:
                    reason = f"{answer.status_code}: {answer.text}"
                    raise RuntimeError(f"a request too many was answered {reason}")
                taken_s.append(time.perf_counter() - began)
    return Percentiles.of(taken_s)


@asynccontextmanager
async def all_taken(client: httpx.AsyncClient, places: int) -> AsyncIterator[None]:
    """As many sequences as there are places, until the first of them ends."""
    prompts = [f"one of many: {n}" for n in range(places)]
    crowd = {"model": "default", "prompt": prompts, "max_tokens": TOKENS}
    async with anyio.create_task_group() as group:
        group.start_soon(partial(client.post, COMPLETIONS, json=crowd))
        await wait_in_flight(client, places)
        yield
        group.cancel_scope.cancel()
    await wait_in_flight(client, 0)


async def wait_in_flight(client: httpx.AsyncClient, count: int) -> None:
    """Wait until the service has this many sequences."""
    while await in_flight(client) != count:  # noqa: ASYNC110 (another process sets no event)
        await anyio.sleep(POLL_S)


async def in_flight(client: httpx.AsyncClient) -> int:
    """How many sequences the service has."""
    requests: dict[str, int] = (await client.get("/health")).json()["requests"]
    return sum(requests.values())
