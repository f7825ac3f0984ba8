"""mlxd, the bare loop (mlx-lm's batch loop, no HTTP) and mlx_lm.server in turn, on one model."""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.progress import Progress

from tests.load.bare import Job, bare_loop
from tests.load.figures import Figures, summarise
from tests.load.generator import ClosedLoop
from tests.load.picture import draw_latency
from tests.load.run import MOST_WARM_UP, add_workload, measure, workload_of
from tests.load.servers import MODEL_HELP, find_model, make_tiny, mlx_lm_server, mlxd
from tests.load.tables import figures_table, ratios_table, remarks, wide_console
from tests.load.usage import SERVER, WORKER, Usage
from tests.load.workload import Workload

BARE = "bare loop"
# With the worker's own preloads and scheduling class, which a user of the loop would not have.
BARE_ALIKE = "bare loop, set up alike"
BARE_LOOPS = (BARE, BARE_ALIKE)
SERVERS = {"mlxd": mlxd, "mlx_lm.server": mlx_lm_server}
US_PER_MS = 1000.0
# At concurrency 1, so that the p95 of a round is not just its slowest request.
LEAST_REQUESTS = 8

# One round's figures by the server's name, then by level.
Round = dict[str, dict[float, Figures]]


def run_round(
    model: Path,
    workload: Workload,
    paces: Sequence[ClosedLoop],
    order: Sequence[str],
    show: Progress,
) -> Round:
    """Start, load and stop each server once."""
    most = max(pace.concurrency for pace in paces)
    found: Round = {}
    for name in order:
        if name in BARE_LOOPS:
            found[name] = run_bare(model, workload, paces, most, alike=name == BARE_ALIKE)
            continue
        with SERVERS[name](model, most) as server:
            found[name] = {
                pace.level: measure(server.url, workload, pace, show, name=name, pid=server.pid)
                for pace in paces
            }
    return found


def run_bare(
    model: Path, workload: Workload, paces: Sequence[ClosedLoop], most: int, *, alike: bool = False
) -> dict[float, Figures]:
    """The bare loop's figures by level."""
    found = {}
    with bare_loop(model, most, alike=alike) as run:
        for pace in paces:
            warm_up = min(pace.requests, MOST_WARM_UP)
            bodies = [workload.body(number) for number in range(-warm_up, pace.requests)]
            done = run(Job(bodies, pace.concurrency, warm_up))
            usage = Usage({SERVER: done.processor_s})
            found[pace.level] = summarise(pace.level, done.timings, done.elapsed_s, 0.0, usage)
    return found


def ratios(rounds: Sequence[Round]) -> dict[float, dict[str, list[float]]]:
    """By level: mlxd's figures relative to the others by round, and its processor time a token."""
    found: dict[float, dict[str, list[float]]] = {}
    for one in rounds:
        for level, ours in one["mlxd"].items():
            of_level = found.setdefault(level, defaultdict(list))
            peer = one["mlx_lm.server"][level]
            for name in BARE_LOOPS:
                of_level[f"tokens/s of {name}"].append(
                    ours.tokens_per_s / one[name][level].tokens_per_s
                )
            of_level["tokens/s of peer"].append(ours.tokens_per_s / peer.tokens_per_s)
            of_level["first token p95 of peer"].append(ours.first_token.p95 / peer.first_token.p95)
            for name, used in processor_us(ours, one[BARE_ALIKE][level]).items():
                of_level[name].append(used)
    return found


def processor_us(ours: Figures, alike: Figures) -> dict[str, float]:
    """The microseconds of processor time a token of mlxd's processes and of the loop alike."""
    if ours.usage is None or alike.usage is None:
        return {}
    used = {"service": ours.usage.cpu_s[SERVER], "worker": ours.usage.cpu_s[WORKER]}
    used["loop alike"] = alike.usage.cpu_s[SERVER]
    return {f"{name}, us a token": s * US_PER_MS for name, s in used.items()}


def median_figures(rounds: Sequence[Round], name: str) -> list[Figures]:
    """For each level the round with the median throughput."""
    levels = rounds[0][name]
    by_speed = {
        level: sorted((one[name][level] for one in rounds), key=lambda f: f.tokens_per_s)
        for level in levels
    }
    return [found[len(found) // 2] for found in by_speed.values()]


@contextmanager
def model_of(options: argparse.Namespace) -> Iterator[Path]:
    """The given model, or a tiny one made for this."""
    with tempfile.TemporaryDirectory() as folder:
        yield options.model or make_tiny(Path(folder))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--model", type=find_model, help=MODEL_HELP)
    parser.add_argument("--concurrency", default="1,8,32,64")
    parser.add_argument("--rounds", type=int, default=5, help="in which each runs once")
    parser.add_argument("--requests", type=int, default=3, help="for each of those at once")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--png", type=Path, help="a file for a picture of the latency")
    add_workload(parser)


def main(options: argparse.Namespace) -> int:
    """Compare; returns 1 if mlxd failed a request."""
    console = wide_console()
    workload = workload_of(options, "default_model")
    levels = map(int, options.concurrency.split(","))
    paces = [ClosedLoop(level, max(level, LEAST_REQUESTS) * options.requests) for level in levels]
    names = [*BARE_LOOPS, *SERVERS]
    rounds = []
    with model_of(options) as model, Progress(console=console, transient=True) as show:
        for number in show.track(range(options.rounds), description="rounds"):
            first = number % len(names)
            order = names[first:] + names[:first]
            rounds.append(run_round(model, workload, paces, order, show))
    middle = {name: median_figures(rounds, name) for name in names}
    for name, figures in middle.items():
        console.print(figures_table("at once", figures, f"{name}, its median rounds"))
        for remark in remarks(figures):
            console.print(remark)
    console.print(ratios_table(f"mlxd, {options.rounds} rounds in turn", ratios(rounds)))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rounds)))
    if options.png:
        draw_latency(middle, options.png)
    return int(any(level.errors for one in rounds for level in one["mlxd"].values()))
