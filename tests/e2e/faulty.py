"""The real service with the fake worker, and clients that request faults."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.fakes.worker import answer
from tests.waiting import HANG_S

PROGRAM = "tests.fakes.service"
# How long a worker may be silent where a test stages that it is. A fake one that is not at fault
# sends every 2 ms, unless the machine is busy: elsewhere it may be silent for as long as it takes.
STALL_S = 2.0


@contextmanager
def faulty(
    *flags: str,
    source: str | None = "unused",
    wait: bool = True,
    environ: Mapping[str, str] | None = None,
    stall_s: float = HANG_S,
) -> Iterator[Daemon]:
    """A service whose worker is the fake one; a fault of its start is asked for by `source`.

    Without a source the flags name the models.
    """
    quick = ["--blas", "off", "--allocator", "off", "--stall-s", str(stall_s), *flags]
    models = [] if source is None else [f"fake={source}"]
    with running(*models, flags=quick, program=PROGRAM, wait=wait, environ=environ) as daemon:
        yield daemon


@dataclass
class Reply:
    """What came of one request; `error` is the body's, or the last event's of a stream."""

    status: int
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    text: str = ""
    error: dict[str, Any] | None = None
    usage: dict[str, int] | None = None


@dataclass(frozen=True)
class Asked:
    """One completion."""

    prompt: str
    tokens: int = 40
    stream: bool = False

    @property
    def expected(self) -> str:
        """The whole answer."""
        return answer(self.prompt, self.tokens)

    @property
    def body(self) -> dict[str, Any]:
        """As it is sent."""
        body = {"model": "fake", "prompt": self.prompt, "max_tokens": self.tokens}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return {**body, **(options if self.stream else {})}


async def complete(client: httpx.AsyncClient, asked: Asked) -> Reply:
    """The reply to one request, whatever it is."""
    async with client.stream("POST", "/v1/completions", json=asked.body) as response:
        reply = Reply(response.status_code, response.headers)
        if asked.stream and reply.status == 200:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    add(reply, json.loads(line.removeprefix("data: ")))
        else:
            add(reply, json.loads(await response.aread()))
    return reply


def add(reply: Reply, part: dict[str, Any]) -> None:
    """One event of a stream, or the one body, into the reply."""
    reply.error = part.get("error", reply.error)
    reply.usage = part.get("usage") or reply.usage
    for choice in part.get("choices", []):
        reply.text += choice["text"]


def complete_all(daemon: Daemon, asked: Sequence[Asked]) -> list[Reply]:
    """The replies to requests sent at once, in their order."""
    replies: dict[int, Reply] = {}

    async def one(client: httpx.AsyncClient, place: int) -> None:
        replies[place] = await complete(client, asked[place])

    async def all_of_them() -> None:
        async with (
            plain_http.async_client(daemon.url) as client,
            anyio.create_task_group() as group,
        ):
            for place in range(len(asked)):
                group.start_soon(one, client, place)

    anyio.run(all_of_them)
    return [replies[place] for place in range(len(asked))]


def assert_served(asked: Asked, reply: Reply) -> None:
    """It was answered as if nothing had happened."""
    assert (reply.status, reply.error) == (200, None), asked
    assert reply.text == asked.expected
    assert reply.usage is not None
    assert reply.usage["completion_tokens"] == asked.tokens
