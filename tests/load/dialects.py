"""The service's processor time a token of each API, with a worker without MLX."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from rich.progress import Progress
from rich.table import Table

from tests.e2e.daemon import running
from tests.load.apis import GENERATING, ApiName
from tests.load.generator import ClosedLoop
from tests.load.run import measure
from tests.load.tables import spread, wide_console
from tests.load.usage import SERVER
from tests.load.workload import Lengths, Workload

FAKE_SERVICE = "tests.fakes.service"
BASE: ApiName = "chat"
US_PER_MS = 1000.0
MOST_RATIO = 1.3

# By API, of each round: microseconds a token.
Costs = dict[ApiName, list[float]]


def run_rounds(apis: Sequence[ApiName], options: argparse.Namespace, show: Progress) -> Costs:
    """Load one service through each API in turn.

    Raises:
        RuntimeError: a request failed.
    """
    costs: Costs = defaultdict(list)
    workload = Workload(answer_tokens=Lengths(str(options.tokens)), stream=not options.plain)
    pace = ClosedLoop(options.concurrency, options.concurrency * options.requests)
    flags = ["--max-running", str(options.concurrency), "--log-level", "warning"]
    with running("m=/nowhere", flags=flags, program=FAKE_SERVICE) as daemon:
        for number in range(options.rounds):
            for api in apis if number % 2 else reversed(apis):
                sent = replace(workload, api=api)
                pid = daemon.process.pid
                figures = measure(daemon.url, sent, pace, show, name=api, pid=pid)
                if figures.errors or figures.usage is None:
                    raise RuntimeError(f"{api}: {figures.errors or 'no usage'}")
                costs[api].append(figures.usage.cpu_s[SERVER] * US_PER_MS)
    return costs


def ratios_of(costs: Costs, api: ApiName) -> list[float]:
    """The cost relative to that of chat completions, round by round."""
    return [one / base for one, base in zip(costs[api], costs[BASE], strict=True)]


def costs_table(costs: Costs) -> Table:
    """The cost of each API, and its ratio to that of chat completions."""
    table = Table("API", "us a token", "to chat", caption="median (least to most)")
    for api in costs:
        table.add_row(api, spread(costs[api]), spread(ratios_of(costs, api)))
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--apis", default=",".join(GENERATING), help="besides chat, by commas")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2, help="for each of those at once")
    parser.add_argument("--tokens", type=int, default=400, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="whole answers instead of streams")
    parser.add_argument("--most", type=float, default=MOST_RATIO, help="the ratio that is allowed")


def main(options: argparse.Namespace) -> int:
    """Measure; returns 1 if an API costs more than `--most` times chat completions."""
    console = wide_console()
    asked = options.apis.split(",")
    apis = [name for name in GENERATING if name == BASE or name in asked]
    with Progress(console=console, transient=True) as progress:
        costs = run_rounds(apis, options, progress)
    console.print(costs_table(costs))
    return int(any(median(ratios_of(costs, api)) > options.most for api in apis))
