"""A closed loop of streaming chats: so many at once, each followed by the next."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.load.streams import StreamTimes, stream_chat

MS_PER_S = 1000.0
REQUEST_TIMEOUT_S = 300.0
# Above this share of one core the client's own work is part of what it measures.
CLIENT_BUSY = 0.9


@dataclass(frozen=True)
class Load:
    """What is asked, at one concurrency."""

    url: str
    model: str
    concurrency: int
    requests: int
    prompt_words: int
    answer_tokens: int

    def chat(self, number: int) -> dict[str, object]:
        """The body of one chat; every prompt differs at its beginning."""
        content = f"{number} " + "hello " * self.prompt_words
        return {
            "model": self.model,
            "temperature": 0,
            "max_tokens": self.answer_tokens,
            "messages": [{"role": "user", "content": content}],
        }


@dataclass(frozen=True)
class Result:
    """What one load gave. `client_cpu` is this process's share of one core meanwhile."""

    concurrency: int
    tokens_per_s: float
    requests_per_s: float
    first_token_ms: tuple[float, float, float]
    between_tokens_ms: tuple[float, float, float]
    errors: int
    client_cpu: float


async def run_load(load: Load, progress: Progress) -> Result:
    """Send all requests of `load`, after one that warms up."""
    task = progress.add_task(f"{load.concurrency} at once", total=load.requests)
    slots = asyncio.Semaphore(load.concurrency)
    limits = httpx.Limits(max_connections=load.concurrency)
    async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S, limits=limits) as client:
        await stream_chat(client, load.url, load.chat(-1))

        async def send(number: int) -> StreamTimes:
            async with slots:
                times = await stream_chat(client, load.url, load.chat(number))
            progress.advance(task)
            return times

        began, cpu_began = time.perf_counter(), time.process_time()
        streams = await asyncio.gather(*(send(number) for number in range(load.requests)))
    elapsed = time.perf_counter() - began
    return summarise(load, streams, elapsed, (time.process_time() - cpu_began) / elapsed)


def summarise(
    load: Load, streams: Sequence[StreamTimes], elapsed_s: float, client_cpu: float
) -> Result:
    """The figures of these streams."""
    first = [times.text_at[0] - times.sent_at for times in streams if times.text_at]
    gaps = [b - a for times in streams for a, b in itertools.pairwise(times.text_at)]
    return Result(
        concurrency=load.concurrency,
        tokens_per_s=sum(times.tokens for times in streams) / elapsed_s,
        requests_per_s=len(streams) / elapsed_s,
        first_token_ms=percentiles_ms(first),
        between_tokens_ms=percentiles_ms(gaps),
        errors=sum(times.error is not None for times in streams),
        client_cpu=client_cpu,
    )


def percentiles_ms(seconds: Sequence[float]) -> tuple[float, float, float]:
    """The 50th, 95th and 99th percentile in milliseconds; zeros where there is nothing."""
    ordered = sorted(seconds) or [0.0]
    p50, p95, p99 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.95, 0.99))
    return p50 * MS_PER_S, p95 * MS_PER_S, p99 * MS_PER_S


def show(results: Sequence[Result], console: Console) -> None:
    """The table, and a word where the client was the bottleneck."""
    names = (
        "at once",
        "tokens/s",
        "requests/s",
        "first token ms",
        "between ms",
        "errors",
        "client",
    )
    table = Table(*names, caption="milliseconds: p50 / p95 / p99")
    for result in results:
        table.add_row(
            str(result.concurrency),
            f"{result.tokens_per_s:,.0f}",
            f"{result.requests_per_s:.1f}",
            " / ".join(f"{ms:.0f}" for ms in result.first_token_ms),
            " / ".join(f"{ms:.1f}" for ms in result.between_tokens_ms),
            str(result.errors),
            f"{result.client_cpu:.0%}",
        )
    console.print(table)
    busy = [result.concurrency for result in results if result.client_cpu > CLIENT_BUSY]
    if busy:
        console.print(f"The client was the bottleneck at {busy}: it used a whole core.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of this script."""
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="default")
    parser.add_argument("--concurrency", default="1,8,32", help="several with commas between")
    parser.add_argument("--rounds", type=int, default=4, help="requests for each of those at once")
    parser.add_argument("--prompt-words", type=int, default=40)
    parser.add_argument("--answer-tokens", type=int, default=128)
    parser.add_argument("--json", type=Path, help="a file for the figures")


def main(options: argparse.Namespace) -> int:
    """Run the loads one after the other; 1 where any request failed."""
    console = Console()
    results = []
    with Progress(console=console, transient=True) as progress:
        for concurrency in map(int, options.concurrency.split(",")):
            load = Load(
                options.url,
                options.model,
                concurrency,
                concurrency * options.rounds,
                options.prompt_words,
                options.answer_tokens,
            )
            results.append(asyncio.run(run_load(load, progress)))
    show(results, console)
    if options.json:
        options.json.write_bytes(msgspec.json.encode([asdict(result) for result in results]))
    return int(any(result.errors for result in results))
