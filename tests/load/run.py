"""Loads one OpenAI-compatible URL, level by level, and reports latencies and throughput."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.progress import Progress

from tests.load import embedding_speed
from tests.load.apis import APIS, GENERATING
from tests.load.figures import Figures, summarise
from tests.load.generator import ClosedLoop, Load, OpenLoop, generate
from tests.load.picture import draw_latency
from tests.load.tables import figures_table, remarks, wide_console
from tests.load.usage import Meter, listener_of
from tests.load.workload import Lengths, Workload

MOST_WARM_UP = 8


def measure(
    url: str,
    workload: Workload,
    pace: ClosedLoop | OpenLoop,
    progress: Progress,
    *,
    name: str = "",
    pid: int | None = None,
) -> Figures:
    """Measure one level, with the processor time and memory of `pid` and its children if given."""
    meter = Meter(pid) if pid else None
    task = progress.add_task(f"{name} {pace.level:g}", total=pace.requests)

    def begin() -> None:
        if meter:
            meter.begin()

    def advance() -> None:
        progress.advance(task)
        if meter:
            meter.look()

    load = Load(url, workload, pace, warm_up=min(pace.requests, MOST_WARM_UP))
    [measured] = generate([load], on_begin=begin, on_answer=advance)
    usage = meter.end() if meter else None
    progress.remove_task(task)
    return summarise(pace.level, measured.timings, measured.elapsed_s, measured.client_cpu, usage)


def add_workload(parser: argparse.ArgumentParser) -> None:
    """Add the workload's arguments. A length is 128, 16-512 (uniform) or 90~0.5 (log-normal)."""
    parser.add_argument("--prompt-words", type=Lengths, default=Lengths("65"), metavar="LENGTH")
    parser.add_argument("--answer-tokens", type=Lengths, default=Lengths("128"), metavar="LENGTH")
    parser.add_argument("--shared-words", type=int, default=0, help="that begin every prompt")
    parser.add_argument("--sampling", choices=["greedy", "drawn", "mixed"], default="greedy")
    parser.add_argument("--plain", action="store_true", help="whole answers instead of streams")
    parser.add_argument("--api", choices=list(APIS), default="chat", help="what it is sent through")
    parser.add_argument("--extra", type=msgspec.json.decode, default={}, help="more fields: JSON")


def workload_of(options: argparse.Namespace, model: str) -> Workload:
    """The workload that the arguments describe."""
    return Workload(
        options.prompt_words,
        options.answer_tokens,
        options.shared_words,
        not options.plain and options.api in GENERATING,
        options.sampling,
        model,
        options.extra,
        options.api,
    )


def paces_of(options: argparse.Namespace) -> Sequence[ClosedLoop | OpenLoop]:
    """The levels, in order."""
    if options.rate:
        rates = map(float, options.rate.split(","))
        return [OpenLoop(rate, max(1, round(rate * options.seconds))) for rate in rates]
    levels = map(int, options.concurrency.split(","))
    return [ClosedLoop(level, max(level, 2) * options.rounds) for level in levels]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="default")
    parser.add_argument("--concurrency", default="1,8,32", help="closed loops: requests at once")
    parser.add_argument("--rounds", type=int, default=4, help="requests for each of those at once")
    parser.add_argument("--rate", help="open loops instead: requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long an open loop sends")
    parser.add_argument("--pid", type=int, help="the server's process id, where it cannot be found")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--png", type=Path, help="a file for a picture of the latency")
    parser.add_argument(
        "--beside",
        nargs=2,
        metavar=("PYTHON", "FOLDER"),
        help="with --api embeddings: sentence-transformers of that Python, and the model's folder",
    )
    add_workload(parser)


def main(options: argparse.Namespace) -> int:
    """Run the loads one after the other; returns 1 if a request failed."""
    console = wide_console()
    workload = workload_of(options, options.model)
    pid = options.pid or listener_of(options.url)
    with Progress(console=console, transient=True) as progress:
        figures = [
            measure(options.url, workload, pace, progress, pid=pid) for pace in paces_of(options)
        ]
    console.print(figures_table("requests a second" if options.rate else "at once", figures))
    for remark in remarks(figures):
        console.print(remark)
    if options.beside:
        python, folder = options.beside
        rounds = embedding_speed.compare(
            options.url, workload, python, Path(folder), options.rounds, options.rounds
        )
        console.print(embedding_speed.describe(rounds))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    if options.png:
        draw_latency({"": figures}, options.png)
    return int(any(level.errors for level in figures))
