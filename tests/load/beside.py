"""First token of a short request beside three long prompts, and what the long ones lose by it."""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.table import Table

from tests.load.servers import MODEL_HELP, TINY, find_model, mlxd
from tests.load.tables import spread, wide_console
from tests.load.timings import Timing, ask
from tests.load.workload import WORDS
from tests.models import families

TIMEOUT_S = 600.0
CONTEXT_TOKENS = 32768
MAX_RUNNING = 8
LONG_PROMPTS = 3
SHORT_WORDS = 20
ANSWER_TOKENS = 4
# When the short request is sent, as a part of the time that the long ones take alone.
SENT_AT = 0.1


class Result(msgspec.Struct):
    """Seconds; `first_come` is when the short one would have its first token after the others."""

    short_alone_s: float
    first_come_s: float
    short_beside_s: float
    long_alone_s: float
    long_beside_s: float
    prompt_tokens: int
    errors: int


async def measure(url: str, words: int, number: int) -> Result:
    """The short request alone, the long prompts alone, and all of them."""
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as client:
        await send(client, 50, f"warm-up {number}")
        short = await send(client, SHORT_WORDS, f"short {number}")
        began = time.perf_counter()
        alone = await send_long(client, words, f"alone {number}")
        alone_s = last_first_token(alone) - began
        began = time.perf_counter()
        long = asyncio.create_task(send_long(client, words, f"beside {number}"))
        await asyncio.sleep(SENT_AT * alone_s)
        beside = await send(client, SHORT_WORDS, f"beside {number}")
        among = await long
    timings = [short, beside, *alone, *among]
    return Result(
        short_alone_s=first_token_s(short),
        first_come_s=(1 - SENT_AT) * alone_s + first_token_s(short),
        short_beside_s=first_token_s(beside),
        long_alone_s=alone_s,
        long_beside_s=last_first_token(among) - began,
        prompt_tokens=max(timing.prompt_tokens for timing in among),
        errors=sum(timing.error is not None for timing in timings),
    )


async def send_long(client: httpx.AsyncClient, words: int, seed: str) -> list[Timing]:
    """Send the long prompts at once."""
    asked = (send(client, words, f"{seed} {each}") for each in range(LONG_PROMPTS))
    return await asyncio.gather(*asked)


async def send(client: httpx.AsyncClient, words: int, seed: str) -> Timing:
    """Send a prompt of so many words, which is the prompt of no other request."""
    return await ask(client, body(words, seed), time.perf_counter())


def body(words: int, seed: str) -> dict[str, Any]:
    """A request with a prompt of its own."""
    content = " ".join(random.Random(seed).choices(WORDS, k=words))
    return {
        "model": "default_model",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def first_token_s(timing: Timing) -> float:
    """From the time it was sent."""
    return timing.text_at[0] - timing.due_at


def last_first_token(timings: Sequence[Timing]) -> float:
    """When the last of them had its first token."""
    return max(timing.text_at[0] for timing in timings)


def results_table(results: Sequence[Result]) -> Table:
    """Every round."""
    table = Table(
        "prompts", "short alone", "first come", "short beside", "long alone", "long beside"
    )
    table.caption = "seconds to the first token, of the long prompts to the last one's"
    for each in results:
        times = (each.short_alone_s, each.first_come_s, each.short_beside_s)
        long = (each.long_alone_s, each.long_beside_s)
        table.add_row(str(each.prompt_tokens), *(f"{value:.2f}" for value in (*times, *long)))
    return table


@contextmanager
def model_of(options: argparse.Namespace) -> Iterator[Path]:
    """The model, made if none is given."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = {**TINY.sizes, "max_position_embeddings": CONTEXT_TOKENS}
        yield options.model or families.make(replace(TINY, sizes=sizes), Path(folder) / "tiny")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--model", type=find_model, help=MODEL_HELP)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=7000, help="of a long prompt")


def main(options: argparse.Namespace) -> int:
    """Measure; returns 1 if a request failed."""
    console = wide_console()
    with model_of(options) as model, mlxd(model, MAX_RUNNING) as server:
        rounds = range(options.rounds)
        results = [asyncio.run(measure(server.url, options.words, number)) for number in rounds]
    console.print(results_table(results))
    ratios = {
        "short beside, of first come": [one.short_beside_s / one.first_come_s for one in results],
        "long beside, of alone": [one.long_beside_s / one.long_alone_s for one in results],
    }
    for name, values in ratios.items():
        console.print(f"{name}: {spread(values)}", highlight=False)
    return int(any(each.errors for each in results))
