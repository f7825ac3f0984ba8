"""Time of a look-up in the index of the prompt cache's files, by the length of the prompt."""

from __future__ import annotations

import argparse
import random
import time

from rich.table import Table

from tests.load.figures import Percentiles
from tests.load.tables import wide_console
from worker.cache.file_index import (
    BLOCK_TOKENS,
    FileIndex,
    NodeName,
    PrefixHashes,
    name_of,
)

PROMPT_TOKENS = (500, 4000, 32_000, 131_072)
VOCABULARY = 128_000
REPEATS = 50
MODEL = "model"


def fill_index(files: int, longest: int, shared: list[int], rng: random.Random) -> FileIndex:
    """Half of the files share blocks of `shared` before theirs, the others share nothing."""
    index = FileIndex()
    starts = range(0, len(shared), BLOCK_TOKENS)
    block_hashes = [name_of(MODEL, shared[:start]).block_hash for start in starts]
    for number in range(files):
        length = rng.randrange(1, longest)
        block = length // BLOCK_TOKENS
        shares = block < len(block_hashes) and (number % 2 == 0 or block == 0)
        block_hash = block_hashes[block] if shares else f"{rng.getrandbits(64):016x}"
        index.add(NodeName(MODEL, length, block_hash, f"{rng.getrandbits(128):032x}"), 1)
    return index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--shared-tokens", type=int, default=256, help="of a common system prompt")


def main(options: argparse.Namespace) -> int:
    """Print a table."""
    rng = random.Random(0)
    table = Table(title=f"look-up among {options.files} files, ms")
    for heading in ("longest file", "prompt", "p50", "p99", "converted and hashed once, p50"):
        table.add_column(heading, justify="right")
    for longest in (4000, PROMPT_TOKENS[-1]):
        tokens = [rng.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS[-1])]
        index = fill_index(options.files, longest, tokens[: options.shared_tokens], rng)
        for length in PROMPT_TOKENS:
            looked, hashed = zip(
                *(time_lookup(index, tokens[:length]) for _ in range(REPEATS)), strict=True
            )
            times, once = Percentiles.of(looked), Percentiles.of(hashed)
            figures = (f"{each:.2f}" for each in (times.p50, times.p99, once.p50))
            table.add_row(str(longest), str(length), *figures)
    wide_console().print(table)
    return 0


def time_lookup(index: FileIndex, tokens: list[int]) -> tuple[float, float]:
    """Seconds of one look-up, and of what is done once for a prompt, outside of the lock."""
    began_at = time.perf_counter()
    needed = index.needed_length(MODEL, len(tokens))
    hashes = PrefixHashes(tokens[:needed])
    hashes.hash_blocks(needed // BLOCK_TOKENS)
    hashed_at = time.perf_counter()
    index.find(MODEL, hashes)
    return time.perf_counter() - hashed_at, hashed_at - began_at
