"""`python -m tests.e2e.flood URL REQUESTS TOKENS`: one client with many requests at once.

Each request has a connection of its own. The first token makes it print a line; once all have
ended, it prints the texts by number, and how many requests were refused.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import anyio
import httpx

from tests.e2e import plain_http


class Flood:
    """The requests and what came of them."""

    def __init__(self, url: str, requests: int, tokens: int) -> None:
        self.url, self.requests, self.tokens = url, requests, tokens
        self.texts: dict[int, str] = {}
        self.started = False
        self.refused = 0

    async def request(self, client: httpx.AsyncClient, number: int) -> None:
        """Read one stream to its end."""
        body = {**seeded(number, self.tokens), "stream": True}
        text = ""
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                self.refused += 1
                return
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    self.start()
                    text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
        self.texts[number] = text

    def start(self) -> None:
        """The first token of all has come."""
        if not self.started:
            self.started = True
            write_line("streaming")

    async def run(self) -> None:
        """Send everything at once."""
        async with plain_http.async_client(self.url) as client, anyio.create_task_group() as group:
            for number in range(self.requests):
                group.start_soon(self.request, client, number)
        write_line(json.dumps({"texts": self.texts, "refused": self.refused}))


def write_line(text: str) -> None:
    """Write to the process that started this one."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def seeded(number: int, tokens: int) -> dict[str, Any]:
    """A request whose answer depends on nothing but its number."""
    return {
        "model": "default",
        "prompt": f"Number {number}",
        "max_tokens": tokens,
        "temperature": 0.8,
        "seed": number,
        "ignore_eos": True,
    }


if __name__ == "__main__":
    asyncio.run(Flood(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])).run())
