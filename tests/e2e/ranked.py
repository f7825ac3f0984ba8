"""Mixed requests for a service of several ranks, whose answers are those of one process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import httpx
import psutil

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.waiting import wait_for

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "count": {"type": "integer"}},
    "required": ["city", "count"],
    "additionalProperties": False,
}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
}
KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.9, "top_p": 0.8},
    {"temperature": 0, "response_format": FORMAT, "max_tokens": 24},
    {"temperature": 1, "frequency_penalty": 0.8, "logit_bias": {"300": 3}},
    {"temperature": 0.7, "n": 2},
    {"temperature": 0, "logprobs": True, "top_logprobs": 2},
    {"temperature": 0.8, "tools": [], "min_tokens": 4, "repetition_penalty": 1.2},
    {"temperature": 0, "prediction": {"type": "content", "content": "Number 1 and Number 2"}},
    {"temperature": 0, "max_tokens": 400},
]
LEAVES = len(KINDS) - 1
# Several begin as others do, so that they continue from the prompt cache.
SYSTEMS = ("Be brief.", "Be brief. " * 12, "Answer with care. " * 20)


def make_requests(count: int, tokens: int = 10) -> list[dict[str, Any]]:
    """Requests of all kinds in turn; those of the last kind leave after their first tokens."""
    return [
        {
            "model": "default",
            "messages": [
                {"role": "system", "content": SYSTEMS[number % len(SYSTEMS)]},
                {"role": "user", "content": f"Number {number % 13}"},
            ],
            "max_tokens": tokens + number % 7,
            "seed": number,
            **KINDS[number % len(KINDS)],
        }
        for number in range(count)
    ]


async def answer_all(daemon: Daemon, bodies: Sequence[dict[str, Any]]) -> list[Any]:
    """The answers to all requests; each begins once the one before it was sent."""
    answers: list[Any] = [None] * len(bodies)
    async with plain_http.async_client(daemon.url) as client, anyio.create_task_group() as group:
        for number, body in enumerate(bodies):
            group.start_soon(answer_one, client, body, answers, number)
    return answers


async def answer_one(
    client: httpx.AsyncClient, body: dict[str, Any], answers: list[Any], number: int
) -> None:
    """Put the texts and the tokens of one answer at its place; none of one that is left."""
    path = "/v1/chat/completions"
    if number % len(KINDS) == LEAVES:
        async with client.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200
            async for _ in response.aiter_lines():
                return
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    answers[number] = [
        (
            choice["message"]["content"],
            choice["finish_reason"],
            [token["token"] for token in (choice.get("logprobs") or {}).get("content", [])],
        )
        for choice in response.json()["choices"]
    ]


def rank_pids(daemon: Daemon) -> list[int]:
    """The process ids of its ranks."""
    return [rank["pid"] for rank in daemon.health()["worker"]["ranks"]]


async def answer_while(
    daemon: Daemon, bodies: Sequence[dict[str, Any]], rank: int, number: signal.Signals
) -> list[Any]:
    """The answers, while this rank gets a signal in the middle of them."""
    process = psutil.Process(rank_pids(daemon)[rank])
    return await answer_during(daemon, bodies, lambda: process.send_signal(number))


async def answer_during(
    daemon: Daemon, bodies: Sequence[dict[str, Any]], act: Callable[[], None]
) -> list[Any]:
    """The answers; `act` is called, on a thread, once the first requests run."""
    answers: list[Any] = []

    async def answer() -> None:
        answers.extend(await answer_all(daemon, bodies))

    async with anyio.create_task_group() as group:
        group.start_soon(answer)
        await anyio.to_thread.run_sync(wait_for, lambda: daemon.health()["requests"]["running"] > 0)
        await anyio.to_thread.run_sync(act)
    return answers
