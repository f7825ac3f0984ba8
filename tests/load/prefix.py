"""Time to first token of long prompts: cold, and with a cached prefix."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.progress import Progress
from rich.table import Table

from tests.load.compare import SERVERS, model_of
from tests.load.figures import Percentiles
from tests.load.servers import MODEL_HELP, find_model
from tests.load.tables import spread, wide_console
from tests.load.timings import Timing, ask
from tests.load.workload import WORDS

TIMEOUT_S = 120.0
QUESTION_WORDS = 8
ANSWER_TOKENS = 4


class Result(msgspec.Struct):
    """Milliseconds to first token of each new prefix, and of the next question about it."""

    cold: Percentiles
    warm: Percentiles
    prompt_tokens: int
    errors: int

    @property
    def ratio(self) -> float:
        """The ratio of the medians, warm to cold."""
        return self.warm.p50 / self.cold.p50


async def measure(url: str, prefixes: int, words: int) -> Result:
    """Send two questions about each of `prefixes` new prefixes."""
    timings: list[Timing] = []
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as client:
        for prefix in range(-1, prefixes):  # the first warms the server up
            for question in range(2):
                asked = body(prefix, question, words)
                timings.append(await ask(client, asked, time.perf_counter()))
    measured = timings[2:]
    return Result(
        Percentiles.of(first_token_s(timing) for timing in measured[::2]),
        Percentiles.of(first_token_s(timing) for timing in measured[1::2]),
        max(timing.prompt_tokens for timing in measured),
        sum(timing.error is not None for timing in measured),
    )


def first_token_s(timing: Timing) -> float:
    """From the time it was sent, which is when it was due."""
    return timing.text_at[0] - timing.due_at


def body(prefix: int, question: int, words: int) -> dict[str, Any]:
    """A question under a system prompt of `words` words."""
    system = random.Random(f"prefix {prefix}").choices(WORDS, k=words)
    asked = random.Random(f"question {prefix} {question}").choices(WORDS, k=QUESTION_WORDS)
    return {
        "model": "default_model",
        "messages": [
            {"role": "system", "content": " ".join(system)},
            {"role": "user", "content": " ".join(asked)},
        ],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--model", type=find_model, help=MODEL_HELP)
    parser.add_argument("--rounds", type=int, default=3, help="in which each server runs once")
    parser.add_argument("--prefixes", type=int, default=8, help="that are new, a round")
    parser.add_argument("--words", type=int, default=2000, help="of each of them")
    parser.add_argument("--json", type=Path, help="a file for all figures")


def main(options: argparse.Namespace) -> int:
    """Measure both in turn; returns 1 if mlxd failed a request."""
    console = wide_console()
    rounds: list[dict[str, Result]] = []
    with model_of(options) as model, Progress(console=console, transient=True) as show:
        for number in show.track(range(options.rounds), description="rounds"):
            one = {}
            for name in sorted(SERVERS, reverse=bool(number % 2)):
                with SERVERS[name](model, 1) as server:
                    one[name] = asyncio.run(measure(server.url, options.prefixes, options.words))
            rounds.append(one)
    table = Table("server", "prompt", "cold", "warm", "errors")
    table.caption = "milliseconds to the first token: p50 / p95 / p99"
    for one in rounds:
        for name, result in one.items():
            row = [str(result.prompt_tokens), str(result.cold), str(result.warm)]
            table.add_row(name, *row, str(result.errors))
    console.print(table)
    for name in SERVERS:
        ratios = [one[name].ratio for one in rounds]
        console.print(f"{name}: warm, of cold: {spread(ratios)}", highlight=False)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rounds)))
    return int(any(one["mlxd"].errors for one in rounds))
