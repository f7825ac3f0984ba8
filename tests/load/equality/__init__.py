"""Equal answers: alone, beside others, from the cache, from disk and after a crash."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import httpx
import mlx.core as mx
import msgspec
from rich.console import Console

from tests.e2e.daemon import Daemon, running
from tests.load.equality.cases import MODEL, Answer, Case, ask, draw_cases
from tests.load.equality.report import (
    Comparison,
    Shares,
    compare,
    differences_of,
    shares_table,
    uncached_of,
)
from tests.load.tables import wide_console
from tests.models.architectures.making import build, write
from tests.models.architectures.table import config_of

FAMILIES = ("llama", "qwen3", "gemma3_text", "deepseek_v3", "lfm2", "granitemoehybrid", "qwen3_moe")
SHORT_FAMILIES = ("llama", "gemma3_text", "lfm2")
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
REQUEST_TIMEOUT_S = 600.0
# The worker is killed once so many of the requests that run at once have a token.
KILL_SHARE = 0.5

Answers = list[Answer]


class Asked:
    """The cases, asked of one service after the other."""

    def __init__(self, model: Path, cases: Sequence[Case]) -> None:
        self._model = f"{MODEL}={model}"
        self._cases = cases

    def answers(self, folder: Path) -> dict[str, Answers]:
        """The answers by the way in which they came about; "alone" is what others must equal."""
        found: dict[str, Answers] = {}
        with self._service("--prompt-cache-bytes", "0") as daemon:
            found["alone"] = self._run(daemon, self._in_turn)
            found["again"] = self._run(daemon, self._in_turn)
            found["beside others"] = self._run(daemon, self._at_once)
            found["after a crash"] = self._run(daemon, self._killed(daemon))
        with self._service("--prompt-cache-dir", str(folder)) as daemon:
            self._run(daemon, self._siblings)
            found["prefix from memory"] = self._run(daemon, self._in_turn)
            found["whole from memory"] = self._run(daemon, self._in_turn)
            found["from memory beside others"] = self._run(daemon, self._at_once)
        with self._service("--prompt-cache-dir", str(folder)) as daemon:
            found["from disk"] = self._run(daemon, self._in_turn)
        with self._service("--prompt-cache-dir", str(folder)) as daemon:
            found["from disk beside others"] = self._run(daemon, self._at_once)
        return found

    def _service(self, *flags: str) -> AbstractContextManager[Daemon]:
        most = str(len(self._cases))
        words = ["--max-running", most, "--log-level", "warning", "--memory-wait-s", "600", *flags]
        return running(self._model, flags=words)

    def _run(
        self, daemon: Daemon, manner: Callable[[httpx.AsyncClient], Awaitable[Answers]]
    ) -> Answers:
        daemon.wait_until("status", be="healthy")

        async def run() -> Answers:
            async with httpx.AsyncClient(
                base_url=daemon.url, timeout=REQUEST_TIMEOUT_S, trust_env=False
            ) as client:
                return await manner(client)

        return asyncio.run(run())

    async def _in_turn(self, client: httpx.AsyncClient) -> Answers:
        return [await ask(client, case) for case in self._cases]

    async def _siblings(self, client: httpx.AsyncClient) -> Answers:
        return [await ask(client, case.sibling()) for case in self._cases]

    async def _at_once(self, client: httpx.AsyncClient) -> Answers:
        return await asyncio.gather(*(ask(client, case) for case in self._cases))

    def _killed(self, daemon: Daemon) -> Callable[[httpx.AsyncClient], Awaitable[Answers]]:
        """Ask all at once, and kill the worker when some have tokens."""

        async def run(client: httpx.AsyncClient) -> Answers:
            begun: set[int] = set()

            def begin(number: int) -> None:
                if len(begun) < KILL_SHARE * len(self._cases):
                    begun.add(number)
                    if len(begun) >= KILL_SHARE * len(self._cases):
                        os.kill(pid, signal.SIGKILL)

            pid = daemon.health()["worker"]["pid"]
            return await asyncio.gather(
                *(ask(client, case, partial(begin, case.number)) for case in self._cases)
            )

        return run


def measure(family: str, dtype: str, folder: Path, cases: Sequence[Case]) -> dict[str, Comparison]:
    """How the answers of a family's tiny model compare, by the way they came about."""
    config = config_of(family)
    model = build(config)
    model.set_dtype(DTYPES[dtype])
    path = write(folder / f"{family}-{dtype}", model, {**config, "torch_dtype": dtype})
    answers = Asked(path, cases).answers(folder / f"cache-{family}-{dtype}")
    expected = answers.pop("alone")
    return {way: compare(cases, expected, found) for way, found in answers.items()}


def report(shares: Shares, console: Console) -> None:
    """The table, and a line for each answer that differs and for caches that were not used."""
    console.print(shares_table(shares))
    for line in (*differences_of(shares), *uncached_of(shares)):
        console.print(line, highlight=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--families", help=f"by commas; else {', '.join(FAMILIES)}")
    parser.add_argument("--dtypes", help=f"by commas; else {', '.join(DTYPES)}")
    parser.add_argument("--cases", type=int, default=16, help="half greedy, half with a seed")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument(
        "--short", action="store_true", help="unless given, three families and float32"
    )
    parser.add_argument("--json", type=Path, help="a file for all figures")


def main(options: argparse.Namespace) -> int:
    """Compare; returns 1 if an answer in float32 differs, or a request failed."""
    console = wide_console()
    families = options.families.split(",") if options.families else FAMILIES
    dtypes = options.dtypes.split(",") if options.dtypes else [*DTYPES]
    if options.short:
        families = families if options.families else SHORT_FAMILIES
        dtypes = dtypes if options.dtypes else ["float32"]
    cases = draw_cases(options.cases, options.tokens)
    shares: Shares = {}
    with tempfile.TemporaryDirectory() as folder:
        for family in families:
            for dtype in dtypes:
                measured = measure(family, dtype, Path(folder), cases)
                shares[family, dtype] = measured
                report({(family, dtype): measured}, console)
    console.print(shares_table(shares))
    if options.json:
        told = [{"family": f, "dtype": d, "ways": ways} for (f, d), ways in shares.items()]
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(told)))
    exact = [ways for (_, dtype), ways in shares.items() if dtype == "float32"]
    failed = any(one.failed for ways in shares.values() for one in ways.values())
    return int(failed or any(one.differences for ways in exact for one in ways.values()))
