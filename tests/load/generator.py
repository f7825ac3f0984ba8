"""The load generator: httpx clients in a process of their own.

Loads that are given together run beside each other. Closed loops keep so many
requests going; open loops send when a Poisson process says, whatever became of
those before, and count a request's time from when it was due.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Literal

import httpx

from service.commands.serve import loop_factory
from tests.load.timings import Timing, ask
from tests.load.transport import Connection
from tests.load.workload import Workload

REQUEST_TIMEOUT_S = 300.0
WARM_UP_FROM = 10**6
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class ClosedLoop:
    """`requests` in all, `concurrency` at once."""

    concurrency: int
    requests: int

    @property
    def level(self) -> float:
        return self.concurrency


@dataclass(frozen=True)
class OpenLoop:
    """`requests` in all, `rate` a second on average, the first after `delay_s`."""

    rate: float
    requests: int
    delay_s: float = 0.0

    @property
    def level(self) -> float:
        return self.rate


@dataclass(frozen=True)
class Load:
    """A workload, its URL and its rate. The first `warm_up` requests do not count."""

    url: str
    workload: Workload
    pace: ClosedLoop | OpenLoop
    warm_up: int = 1
    first: int = 0


@dataclass(frozen=True)
class Measured:
    """The requests of one load, the total time, and the client's share of one core."""

    timings: list[Timing]
    elapsed_s: float
    client_cpu: float


Said = Literal["began", "answered"] | list[Measured]


def generate(
    loads: Sequence[Load],
    *,
    on_begin: Callable[[], None] = lambda: None,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Run the loads to their end; `on_begin` is called once all are warm.

    Raises:
        EOFError: the client process died.
    """
    ours, theirs = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=run_clients, args=(loads, theirs))
    process.start()
    theirs.close()
    try:
        while True:
            said: Said = ours.recv()
            match said:
                case "began":
                    on_begin()
                case "answered":
                    on_answer()
                case measured:
                    return measured
    finally:
        process.join()


def run_clients(loads: Sequence[Load], parent: Pipe) -> None:
    """The client process."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        parent.send(runner.run(run_loads(loads, parent.send)))


async def run_loads(loads: Sequence[Load], tell: Callable[[Said], None]) -> list[Measured]:
    """Warm up, then run all loads at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        runs = [Run(load, Clients(load.url, stack), tell) for load in loads]
        for run in runs:
            await run.warm_up()
        tell("began")
        began, cpu_began = time.perf_counter(), time.process_time()
        timings = await asyncio.gather(*(run.all() for run in runs))
        elapsed_s = time.perf_counter() - began
        client_cpu = (time.process_time() - cpu_began) / elapsed_s
    return [Measured(of_load, elapsed_s, client_cpu) for of_load in timings]


class Clients:
    """A pool of clients with one connection each; a request uses one client.

    Requests that share httpx's pool (0.28) wait seconds for a connection while there are idle
    ones: with 64 at once the p95 to the first token was 4.5 s instead of 0.7 s.
    """

    def __init__(self, url: str, stack: contextlib.AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._tls = httpx.create_ssl_context()
        self._idle: list[httpx.AsyncClient] = []

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one request; the stack closes it."""
        client = self._idle.pop() if self._idle else await self._connect()
        try:
            yield client
        finally:
            self._idle.append(client)

    async def _connect(self) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            base_url=self._url,
            timeout=REQUEST_TIMEOUT_S,
            verify=self._tls,
            trust_env=False,
            transport=Connection(REQUEST_TIMEOUT_S) if self._url.startswith("http:") else None,
        )
        return await self._stack.enter_async_context(client)


class Run:
    """One load's requests."""

    def __init__(self, load: Load, clients: Clients, tell: Callable[[Said], None]) -> None:
        self._load = load
        self._clients = clients
        self._tell = tell
        self._numbers = iter(range(load.first, load.first + load.pace.requests))
        self._timings: list[Timing] = []

    async def warm_up(self) -> None:
        """Send requests that are not measured."""
        numbers = range(WARM_UP_FROM, WARM_UP_FROM + self._load.warm_up)
        await asyncio.gather(*(self._ask(number, 0.0) for number in numbers))

    async def all(self) -> list[Timing]:
        """Send all requests at the load's rate."""
        match self._load.pace:
            case ClosedLoop(concurrency):
                await asyncio.gather(*(self._send_on() for _ in range(concurrency)))
            case OpenLoop(rate, delay_s=delay_s):
                await self._send_as_they_come(rate, delay_s)
        return self._timings

    async def _send_on(self) -> None:
        for number in self._numbers:
            await self._send(number, time.perf_counter())

    async def _send_as_they_come(self, rate: float, delay_s: float) -> None:
        chance = random.Random("arrivals")
        due_at = time.perf_counter() + delay_s
        async with asyncio.TaskGroup() as tasks:
            for number in self._numbers:
                await asyncio.sleep(due_at - time.perf_counter())
                tasks.create_task(self._send(number, due_at))
                due_at += chance.expovariate(rate)

    async def _send(self, number: int, due_at: float) -> None:
        self._timings.append(await self._ask(number, due_at))
        self._tell("answered")

    async def _ask(self, number: int, due_at: float) -> Timing:
        async with self._clients.one() as client:
            workload = self._load.workload
            return await ask(client, workload.body(number), due_at, workload.api)
