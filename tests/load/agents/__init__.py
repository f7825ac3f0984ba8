"""Sessions as coding agents make them: time and computed prompt tokens of each turn."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
from rich.console import Console

from tests.load.agents.expected import PromptTokens
from tests.load.agents.models import FAMILIES, make
from tests.load.agents.rows import Row, Runs, Trace, make_rows
from tests.load.agents.script import Shape, Step, make_sessions
from tests.load.agents.sending import MODEL, Sender
from tests.load.agents.tables import draw, summary_table, turns_table
from tests.load.agents.targets import Mlxd, Peer, Remote, Target
from tests.load.servers import SMOLLM2, find_model
from tests.load.tables import wide_console

WHOLE = Shape()
SHORT = Shape(turns=9, tools=3, least_tokens=60, most_tokens=500, answer_tokens=8)
# What fits 8,192 tokens of SmolLM2.
NARROW = Shape(tools=2, blocks=1, least_tokens=20, most_tokens=120)
DEFAULT_FAMILIES = ("plain", "window", "hybrid")
PEERS = {
    "mlx_lm.server": [],
    "mlx_lm.server, 16": ["--prompt-cache-size", "16"],
}


def run_trace(
    target: Target,
    sessions: Mapping[str, Sequence[Step]],
    shape: Shape,
    prompts: PromptTokens | None,
    model: str = MODEL,
) -> Trace:
    """Send all sessions at once, with a kill of the worker and a restart in between."""
    sender, total_s = Sender(model), 0.0
    legs = ((0, shape.kill_turn), (shape.kill_turn, shape.restart_turn), (shape.restart_turn, 0))
    for number, (first, end) in enumerate(legs):
        if number:
            _ = target.kill_worker() if number == 1 else target.restart()
        chosen = {
            name: [step for step in steps if first <= step.turn and (not end or step.turn < end)]
            for name, steps in sessions.items()
        }
        began = time.perf_counter()
        asyncio.run(sender.run(target.url, chosen, number))
        total_s += time.perf_counter() - began
    return Trace(make_rows(sender.sent, prompts, shape), total_s)


@contextmanager
def server(name: str, model: Path, options: argparse.Namespace) -> Iterator[Target]:
    """A server started for the trace, mlxd with an empty folder for its prompt cache."""
    if name in PEERS:
        with Peer(model, PEERS[name]) as peer:
            yield peer
        return
    with (
        tempfile.TemporaryDirectory() as cache,
        Mlxd(model, None if options.no_disk else Path(cache), options.flag) as mlxd,
    ):
        yield mlxd


def measure_all(options: argparse.Namespace, shape: Shape, folder: Path, console: Console) -> Runs:
    """Run the trace on each family and server in turn, in rounds."""
    sessions = make_sessions(options.sessions, shape)
    names = ["mlxd", *([] if options.alone else PEERS)]
    runs: Runs = {}
    for family in options.families.split(","):
        model = find_model(family) if family == SMOLLM2 else make(family, folder)
        prompts = PromptTokens(model)
        for _, name in itertools.product(range(options.rounds), names):
            with server(name, model, options) as target:
                trace = run_trace(target, sessions, shape, prompts)
            runs.setdefault((family, name), []).append(trace)
            console.print(turns_table(f"{family}, {name}", trace.rows))
            report_faults(trace.rows if name == "mlxd" else [], console)
            write_figures(runs, options)
    return runs


def write_figures(runs: Runs, options: argparse.Namespace) -> None:
    """Write what is measured so far, where that was asked for."""
    if options.json:
        told = [
            {"family": family, "server": name, "rounds": traces}
            for (family, name), traces in runs.items()
        ]
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(told)))
    if options.png:
        draw(runs, options.png)


def report_faults(rows: Sequence[Row], console: Console) -> None:
    """A line for each request that computed too much, or failed."""
    for row in rows:
        if row.is_excessive or row.has_failed:
            console.print(f"{row}{f', {row.error}' if row.error else ''}", highlight=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--url", help="of a server that runs already; else each is started")
    parser.add_argument("--model-name", default=MODEL, help="of that server's model")
    parser.add_argument("--model", type=find_model, help="the folder of that server's model")
    parser.add_argument(
        "--families",
        default=",".join(DEFAULT_FAMILIES),
        help=f"by commas, of {', '.join(FAMILIES)}; or {SMOLLM2}",
    )
    parser.add_argument("--sessions", type=int, default=4, help="at once")
    parser.add_argument("--turns", type=int, help="of each session")
    parser.add_argument("--rounds", type=int, default=1, help="the servers alternate")
    parser.add_argument("--tools", type=int, help="that are offered")
    parser.add_argument("--short", action="store_true", help="nine turns of three tools")
    parser.add_argument("--alone", action="store_true", help="without mlx_lm.server")
    parser.add_argument("--no-disk", action="store_true", help="without a folder of the cache")
    parser.add_argument("--flag", action="append", default=[], help="one more word for mlxd")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--png", type=Path, help="a file for a picture")


def shape_of(options: argparse.Namespace) -> Shape:
    """The sessions' shape by the arguments."""
    shape = SHORT if options.short else NARROW if SMOLLM2 in options.families else WHOLE
    given = {"turns": options.turns, "tools": options.tools}
    chosen = {name: value for name, value in given.items() if value is not None}
    return replace(shape, **chosen)


def measure_given(options: argparse.Namespace, shape: Shape, console: Console) -> Runs:
    """Run the trace on a server that runs already."""
    prompts = PromptTokens(options.model) if options.model else None
    sessions = make_sessions(options.sessions, shape)
    trace = run_trace(Remote(options.url), sessions, shape, prompts, options.model_name)
    console.print(turns_table(options.url, trace.rows))
    report_faults(trace.rows, console)
    return {("given", options.url): [trace]}


def main(options: argparse.Namespace) -> int:
    """Run the trace; returns 1 if mlxd failed a request, or computed too much of one."""
    console = wide_console()
    shape = shape_of(options)
    if options.url:
        runs = measure_given(options, shape, console)
    else:
        with tempfile.TemporaryDirectory() as folder:
            runs = measure_all(options, shape, Path(folder), console)
    console.print(summary_table(runs))
    write_figures(runs, options)
    traces = [each for (_, name), rounds in runs.items() if name not in PEERS for each in rounds]
    ours = [row for trace in traces for row in trace.rows]
    return int(any(row.is_excessive or row.has_failed for row in ours))
