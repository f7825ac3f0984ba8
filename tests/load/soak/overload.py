"""How long a refusal takes while the service is full."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import anyio
import httpx

from tests.load.figures import Percentiles
from tests.waiting import HANG_S

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
    """As many sequences as there are places, each of all its tokens: none ends before it is seen.

    Raises:
        RuntimeError: the request for them was refused.
        TimeoutError: the service never had as many.
    """
    prompts = [f"one of many: {n}" for n in range(places)]
    crowd = {"model": "default", "prompt": prompts, "max_tokens": TOKENS, "ignore_eos": True}
    async with anyio.create_task_group() as group:
        group.start_soon(ask_for_all, client, crowd)
        await wait_in_flight(client, places)
        yield
        group.cancel_scope.cancel()
    await wait_in_flight(client, 0)


async def ask_for_all(client: httpx.AsyncClient, crowd: dict[str, Any]) -> None:
    """Send the request that takes all places.

    Raises:
        RuntimeError: it was refused.
    """
    answer = await client.post(COMPLETIONS, json=crowd)
    if answer.status_code != HTTPStatus.OK:
        raise RuntimeError(f"the places were refused with {answer.status_code}: {answer.text}")


async def wait_in_flight(client: httpx.AsyncClient, count: int) -> None:
    """Wait until the service has this many sequences.

    Raises:
        TimeoutError: it never has.
    """
    with anyio.fail_after(HANG_S):
        while await in_flight(client) != count:  # noqa: ASYNC110 (another process sets no event)
            await anyio.sleep(POLL_S)


async def in_flight(client: httpx.AsyncClient) -> int:
    """How many sequences the service has."""
    requests: dict[str, int] = (await client.get("/health")).json()["requests"]
    return sum(requests.values())
