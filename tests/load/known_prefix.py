"""The first token behind a known prefix: from memory, and from disk after a restart, beside cold.

`python -m tests.load.known_prefix`. Each round has a prefix of its own, so that it is cold once.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich import box
from rich.table import Table

from tests.load.agents import texts
from tests.load.agents.models import FAMILIES, make
from tests.load.agents.sending import MODEL, REQUEST_TIMEOUT_S
from tests.load.agents.targets import Mlxd
from tests.load.tables import wide_console
from tests.load.timings import Timing, ask

PREFIX_TOKENS = 8000
# The first tokens of an answer may have no text.
ANSWER_TOKENS = 16
WAYS = ("cold", "memory", "disk")


def body_of(number: int, tokens: int) -> dict[str, Any]:
    """A question behind a prefix."""
    text = texts.code(random.Random(number), tokens)
    return {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": f"Round {number}.\n{text}"},
            {"role": "user", "content": "What does the first line do?"},
        ],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def send(url: str, body: dict[str, Any]) -> Timing:
    """One request's times."""

    async def run() -> Timing:
        async with httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
            return await ask(client, body, time.perf_counter())

    return asyncio.run(run())


def measure(target: Mlxd, number: int, tokens: int) -> Mapping[str, Timing]:
    """A round. The service is warm, so that the first request of all is not the cold one."""
    body, warming = body_of(number, tokens), body_of(-1, 1)
    found = {}
    for way in WAYS:
        if way == "disk":
            target.restart()
        send(target.url, warming)
        found[way] = send(target.url, body)
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", default=",".join(FAMILIES), help="by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=PREFIX_TOKENS, help="about, of the prefix")
    options = parser.parse_args()
    table = Table(title="first token, of the cold time (medians)", box=box.SIMPLE_HEAD)
    for name in ("family", "prompt", "cold, s", "memory", "computed", "disk", "computed"):
        table.add_column(name, justify="right", no_wrap=True)
    for family in options.families.split(","):
        with tempfile.TemporaryDirectory() as folder:
            model, cache = make(family, Path(folder)), Path(folder) / "cache"
            with Mlxd(model, cache, ()) as target:
                rounds = [measure(target, n, options.tokens) for n in range(options.rounds)]
        table.add_row(family, str(rounds[0]["cold"].prompt_tokens), *cells_of(rounds))
        wide_console().print(table)
    return 0


def cells_of(rounds: list[Mapping[str, Timing]]) -> list[str]:
    """The columns of a family."""

    def first_s(timing: Timing) -> float:
        assert timing.error is None, timing.error
        return timing.text_at[0] - timing.due_at

    cells = [f"{median(first_s(each['cold']) for each in rounds):.2f}"]
    for way in WAYS[1:]:
        ratios = [first_s(each[way]) / first_s(each["cold"]) for each in rounds]
        computed = [each[way].prompt_tokens - (each[way].cached_tokens or 0) for each in rounds]
        cells += [
            f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            f"{max(computed)}",
        ]
    return cells


if __name__ == "__main__":
    sys.exit(main())
