"""Interference of streams that decode and long prompts that arrive, in mlxd and its peer."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from rich.progress import Progress
from rich.table import Table

from tests.load.compare import SERVERS, model_of
from tests.load.figures import Percentiles
from tests.load.generator import ClosedLoop, Load, OpenLoop, generate
from tests.load.servers import MODEL_HELP, Server, find_model
from tests.load.tables import spread, wide_console
from tests.load.timings import Timing
from tests.load.workload import Lengths, Workload

# Delay of the first long prompt: the streams have started by then.
DELAY_S = 0.5
NEW_ANSWER = Lengths("8")
ALONE = 4
MAX_RUNNING = 64
FIRST_NEW = 1000


class Result(msgspec.Struct):
    """Milliseconds: between tokens of the old streams, and to the first token of the new."""

    undisturbed: Percentiles
    disturbed: Percentiles
    first_alone: Percentiles
    first_among: Percentiles
    prompt_tokens: int
    errors: int


def measure(server: Server, options: argparse.Namespace) -> Result:
    """The streams alone, the prompts alone, and both together."""
    streams = Workload(Lengths("40"), Lengths(str(options.answer_tokens)), model="default_model")
    prompts = replace(streams, prompt_words=options.prompt_words, answer_tokens=NEW_ANSWER)
    old = Load(server.url, streams, ClosedLoop(options.streams, options.streams))
    new = Load(server.url, prompts, OpenLoop(options.rate, options.prompts, DELAY_S), 1, FIRST_NEW)
    [undisturbed] = generate([old])
    [alone] = generate([replace(new, pace=ClosedLoop(1, ALONE))])
    disturbed, among = generate([old, replace(new, first=2 * FIRST_NEW)])
    everything = [*undisturbed.timings, *alone.timings, *disturbed.timings, *among.timings]
    return Result(
        Percentiles.of(gap for timing in undisturbed.timings for gap in timing.gaps),
        Percentiles.of(gaps_within(disturbed.timings, among.timings)),
        first_tokens(alone.timings),
        first_tokens(among.timings),
        max(timing.prompt_tokens for timing in among.timings),
        sum(timing.error is not None for timing in everything),
    )


def gaps_within(old: Sequence[Timing], new: Sequence[Timing]) -> list[float]:
    """Between tokens of the old streams, from when the first new one was sent to the last's end."""
    begin, end = min(t.due_at for t in new), max(t.ended_at for t in new)
    return [
        later - earlier
        for timing in old
        for earlier, later in zip(timing.text_at, timing.text_at[1:], strict=False)
        if later >= begin and earlier <= end
    ]


def first_tokens(timings: Sequence[Timing]) -> Percentiles:
    """To the first token."""
    return Percentiles.of(t.text_at[0] - t.due_at for t in timings if t.text_at)


def ratios(rounds: Sequence[Mapping[str, Result]]) -> dict[str, list[float]]:
    """The values that the targets are set for, one a round."""
    found = defaultdict(list)
    for one in rounds:
        ours, peer = one["mlxd"], one["mlx_lm.server"]
        found["between p99, of undisturbed"].append(ours.disturbed.p99 / ours.undisturbed.p99)
        found["between p99, of the peer's"].append(ours.disturbed.p99 / peer.disturbed.p99)
        found["first token p50, of alone"].append(ours.first_among.p50 / ours.first_alone.p50)
        found["first token p50, of the peer's"].append(ours.first_among.p50 / peer.first_among.p50)
    return found


def results_table(rounds: Sequence[Mapping[str, Result]]) -> Table:
    """Every round of every server."""
    names = ("server", "prompt", "between, undisturbed", "between, disturbed")
    table = Table(*names, "first token, alone", "first token, among", "errors")
    table.caption = "milliseconds: p50 / p95 / p99"
    for one in rounds:
        for name, result in one.items():
            times = (result.undisturbed, result.disturbed, result.first_alone, result.first_among)
            row = [str(result.prompt_tokens), *map(str, times), str(result.errors)]
            table.add_row(name, *row)
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--model", type=find_model, help=MODEL_HELP)
    parser.add_argument("--rounds", type=int, default=5, help="in which each server runs once")
    parser.add_argument("--streams", type=int, default=16, help="that decode")
    parser.add_argument("--answer-tokens", type=int, default=1500, help="of each of them")
    parser.add_argument("--prompts", type=int, default=4, help="that arrive meanwhile")
    parser.add_argument("--rate", type=float, default=1.0, help="at which they do, a second")
    parser.add_argument("--prompt-words", type=Lengths, default=Lengths("3350"))
    parser.add_argument("--json", type=Path, help="a file for all figures")


def main(options: argparse.Namespace) -> int:
    """Measure both in turn; returns 1 if mlxd failed a request."""
    console = wide_console()
    rounds: list[dict[str, Result]] = []
    with model_of(options) as model, Progress(console=console, transient=True) as show:
        for number in show.track(range(options.rounds), description="rounds"):
            one = {}
            for name in sorted(SERVERS, reverse=bool(number % 2)):
                with SERVERS[name](model, MAX_RUNNING) as server:
                    one[name] = measure(server, options)
            rounds.append(one)
    console.print(results_table(rounds))
    for name, values in ratios(rounds).items():
        console.print(f"mlxd: {name}: {spread(values)}", highlight=False)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rounds)))
    return int(any(one["mlxd"].errors for one in rounds))
