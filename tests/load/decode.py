"""Decode alone: steps of mlxd's engine and of mlx-lm's batch loop, in turn, in one process.

No prompt cache, no drafts, no texts and no HTTP. The process has the preloads and the scheduling
class of mlxd's worker. A step is timed once all rows decode.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import mlx.nn as nn
import msgspec
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load

from protocol.messages import Sampling
from tests.load.compare import model_of
from tests.load.servers import MODEL_HELP, find_model, started
from tests.load.tables import ratios_table, wide_console
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row
from worker.memory.device import prepare_device

PROMPT_TOKENS = 95
# The least size of a vocabulary: prompts of these tokens fit every model.
TOKENS = range(100, 400)
MS_PER_S = 1000.0
GREEDY = Sampling(seed=0, temperature=0.0, ignore_eos=True)

Step = Callable[[], int]
"""Computes one step, and returns how many rows had a token."""


class Seconds(msgspec.Struct, frozen=True):
    """The seconds of a step, by the clock and of the processor."""

    clock: float
    processor: float


class Pair(msgspec.Struct, frozen=True):
    """A step of the engine and one of the loop, with this many rows."""

    rows: int
    engine: Seconds
    loop: Seconds


@contextmanager
def engine_of(model: nn.Module, prompts: Sequence[list[int]], most_tokens: int) -> Iterator[Step]:
    """mlxd's engine with these prompts."""
    engine = Engine(model, max_running=len(prompts), prefill=PrefillLimits(max_tokens=512))
    for id, prompt in enumerate(prompts):
        engine.insert(id, prompt, most_tokens, make_row(GREEDY, prompt=prompt))
    try:
        yield lambda: len(engine.step())
    finally:
        engine.remove(range(len(prompts)))


@contextmanager
def loop_of(model: nn.Module, prompts: Sequence[list[int]], most_tokens: int) -> Iterator[Step]:
    """mlx-lm's batch loop with these prompts."""
    with closing(BatchGenerator(model, completion_batch_size=len(prompts))) as generator:
        generator.insert([*prompts], max_tokens=[most_tokens] * len(prompts))
        yield lambda: len(generator.next()[1])


def measure(step: Step, rows: int, steps: int) -> Seconds:
    """A step's mean time, once all rows decode."""
    while step() < rows:
        pass
    clock_s, processor_s = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    clock_s, processor_s = time.perf_counter() - clock_s, time.process_time() - processor_s
    return Seconds(clock_s / steps, processor_s / steps)


def run(folder: str, levels: str, rounds: str, steps: str) -> None:
    """Measure in this process, and write each pair as a line."""
    prepare_device()
    model = load(folder)[0]
    chance = random.Random(0)
    # The first tokens come a few steps apart.
    most_tokens = int(steps) + PROMPT_TOKENS
    for number in range(int(rounds)):
        for rows in map(int, levels.split(",")):
            prompts = [chance.choices(TOKENS, k=PROMPT_TOKENS) for _ in range(rows)]
            found = {}
            for begin in (engine_of, loop_of) if number % 2 else (loop_of, engine_of):
                with begin(model, prompts, most_tokens) as step:
                    found[begin] = measure(step, rows, int(steps))
            pair = Pair(rows, found[engine_of], found[loop_of])
            sys.stdout.buffer.write(msgspec.json.encode(pair) + b"\n")
            sys.stdout.buffer.flush()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--model", type=find_model, help=MODEL_HELP)
    parser.add_argument("--rows", default="1,8")
    parser.add_argument("--rounds", type=int, default=5, help="in which each runs once")
    parser.add_argument("--steps", type=int, default=48, help="that are timed")


def main(options: argparse.Namespace) -> int:
    """Measure, and print the engine's speed of the loop's."""
    ratios: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with model_of(options) as model:
        sizes = [str(model), options.rows, str(options.rounds), str(options.steps)]
        with started(["-m", "tests.load.decode", *sizes], allocator="auto") as process:
            assert process.stdout is not None
            for line in process.stdout:
                pair = msgspec.json.decode(line, type=Pair)
                of_rows = ratios[pair.rows]
                of_rows["speed of the loop's"].append(pair.loop.clock / pair.engine.clock)
                of_rows["by processor time"].append(pair.loop.processor / pair.engine.processor)
                of_rows["ms a step"].append(pair.engine.clock * MS_PER_S)
                of_rows["processor, ms"].append(pair.engine.processor * MS_PER_S)
    wide_console().print(ratios_table("the engine's decode steps", ratios))
    return 0


if __name__ == "__main__":
    run(*sys.argv[1:])
