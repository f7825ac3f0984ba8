"""How long a refusal takes while the service is full."""

from __future__ import annotations

import time
from functools import partial

import anyio
import httpx

from tests.load.figures import Percentiles

REFUSALS = 100
TOKENS = 2000
POLL_S = 0.02
COMPLETIONS = "/v1/completions"


async def time_refusals(client: httpx.AsyncClient, places: int) -> Percentiles:
    """Fill all `places`, then send more requests.

    Raises:
        RuntimeError: a request beyond them was not refused.
    """
    crowd = asked({"prompt": [f"one of many: {n}" for n in range(places)], "max_tokens": TOKENS})
    async with anyio.create_task_group() as group:
        group.start_soon(partial(client.post, COMPLETIONS, json=crowd))
        await wait_in_flight(client, places)
        taken_s = [await time_refusal(client) for _ in range(REFUSALS)]
        group.cancel_scope.cancel()
    await wait_in_flight(client, 0)
    return Percentiles.of(taken_s)


async def time_refusal(client: httpx.AsyncClient) -> float:
    """Seconds for one refusal, including its connection."""
    began = time.perf_counter()
    answer = await client.post(COMPLETIONS, json=asked({"prompt": "x", "max_tokens": 1}))
    taken_s = time.perf_counter() - began
    if answer.status_code != 429 or "retry-after" not in answer.headers:
        raise RuntimeError(f"a request too many was answered {answer.status_code}: {answer.text}")
    return taken_s


async def wait_in_flight(client: httpx.AsyncClient, count: int) -> None:
    """Wait until the service has `n` sequences in flight."""
    while True:
        requests: dict[str, int] = (await client.get("/health")).json()["requests"]
        if sum(requests.values()) == count:
            return
        await anyio.sleep(POLL_S)


def asked(body: dict[str, object]) -> dict[str, object]:
    """A completion."""
    return {"model": "default", **body}
