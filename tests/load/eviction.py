"""What the trace of coding agents computes beside a small prompt cache, without a model.

The cache, the restore points and the eviction order are the worker's; the keys, values and states
are zeros in the sizes of a model's. The same orders of requests are run with the least recently
used evicted first.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, KVCache
from rich import box
from rich.table import Table

from tests.load.agents import SHORT, WHOLE
from tests.load.agents.expected import PromptTokens, Tokens, new_tokens
from tests.load.agents.models import make
from tests.load.agents.rows import ALLOWED_TOKENS
from tests.load.agents.script import Request, Step, make_sessions
from tests.load.tables import wide_console
from worker.cache.known_prompts import KnownPrompts
from worker.cache.prefix_cache import PrefixCache
from worker.cache.restore_points import plan_restore_points

MODEL = "model"
TOKEN_BYTES = 512
# The bytes of the states at a restore point: none, convolutions, a recurrence, windows.
STATES_BYTES = {"plain": 0, "hybrid": 2048, "mamba": 40_000, "window": 512 * TOKEN_BYTES}
UNLIMITED_BYTES = 1 << 40
SESSIONS = 4
# A session sends its next step when the others have about as many left, give or take so many.
LEAD_STEPS = 3
ANSWER_TOKENS = range(10_000, 20_000)


@dataclass(frozen=True)
class Found:
    """What one order of the requests computed beyond the new tokens, and held at most."""

    beyond: int
    above: int
    peak_bytes: int


def make_layers(states_bytes: int, tokens: int) -> list[Any]:
    """Caches in the sizes of a model's after so many tokens."""
    layer = KVCache()
    layer.keys = layer.values = mx.zeros((1, 1, tokens, TOKEN_BYTES // 8))
    layer.offset = tokens
    if not states_bytes:
        return [layer]
    states = ArraysCache(1)
    states[0] = mx.zeros((1, states_bytes // 4))
    return [layer, states]


class Replay:
    """The requests of one order, one after the other."""

    def __init__(self, prompts: PromptTokens, states_bytes: int, limit_bytes: int) -> None:
        self._prompts = prompts
        self._states_bytes = states_bytes
        self._cache = PrefixCache(limit_bytes)
        self._known = KnownPrompts()
        self._asked: list[Tokens] = []
        self._excess: list[int] = []
        self._peak_bytes = 0

    def run(self, requests: Iterator[Request], chance: random.Random) -> Found:
        """Compute all requests."""
        for request in requests:
            self._compute(request, chance)
        above = sum(excess > ALLOWED_TOKENS for excess in self._excess)
        return Found(sum(self._excess), above, self._peak_bytes)

    def _compute(self, request: Request, chance: random.Random) -> None:
        prompt, breakpoints = self._prompts.with_breakpoints(request)
        tokens = prompt.tolist()
        cached = self._cache.find(MODEL, tokens).length
        compared = self._known.note(tokens)
        points: Sequence[int] = []
        if self._states_bytes:
            points = plan_restore_points(compared, cached, breakpoints)
        end = chance.randrange(cached + 1, len(tokens)) if request.cancel else len(tokens) - 1
        for point in [*(point for point in points if cached < point < end), max(end, cached)]:
            self._keep(tokens[:point])
        if not request.cancel:
            self._keep([*tokens, *chance.sample(ANSWER_TOKENS, k=request.answer_tokens - 1)])
            self._excess.append(len(tokens) - cached - new_tokens(prompt, self._asked))
            self._asked.append(prompt)

    def _keep(self, tokens: list[int]) -> None:
        self._known.note_answer(tokens)
        self._cache.insert(MODEL, tokens, make_layers(self._states_bytes, len(tokens)))
        self._peak_bytes = max(self._peak_bytes, self._cache.nbytes)


def in_order(sessions: Mapping[str, list[Step]], chance: random.Random) -> Iterator[Request]:
    """The requests of sessions that run at the same time."""
    left = {name: list(steps) for name, steps in sessions.items()}
    while left := {name: steps for name, steps in left.items() if steps}:
        most = max(left, key=lambda name: len(left[name]) + LEAD_STEPS * chance.random())
        yield from left[most].pop(0).requests


def least_recently_used() -> AbstractContextManager[object]:
    """Of parts that are worth the same, the least recently used goes first."""
    return mock.patch("worker.cache.eviction_order.saved_tokens", return_value=0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this script's arguments."""
    parser.add_argument("--families", default=",".join(STATES_BYTES), help="by commas")
    parser.add_argument("--shares", default="1,0.5,0.3", help="of what it holds without a limit")
    parser.add_argument("--orders", type=int, default=3, help="of the requests")
    parser.add_argument("--short", action="store_true", help="nine turns of three tools")


def main(options: argparse.Namespace) -> int:
    """Print the table; 1 if more was computed than with the least recently used evicted first."""
    sessions = make_sessions(SESSIONS, SHORT if options.short else WHOLE)
    table = Table(title="computed beyond the new tokens (requests above 64)", box=box.SIMPLE_HEAD)
    for name in ("family", "share", "MB", "mlxd", "least recently used"):
        table.add_column(name, justify="right")
    is_worse = False
    # The layers are made and freed in ever new sizes.
    mx.set_cache_limit(0)
    with tempfile.TemporaryDirectory() as folder:
        prompts = PromptTokens(make("plain", Path(folder)))
        for family in options.families.split(","):
            peak = 0
            for share in map(float, options.shares.split(",")):
                limit = round(share * peak) or UNLIMITED_BYTES

                def replay_all(limit: int = limit, family: str = family) -> list[Found]:
                    orders = range(options.orders)
                    return [replay(prompts, sessions, family, limit, order) for order in orders]

                ours = replay_all()
                with least_recently_used():
                    theirs = replay_all()
                peak = peak or max(found.peak_bytes for found in ours)
                margin = ALLOWED_TOKENS * SESSIONS * options.orders
                is_worse |= beyond(ours) > beyond(theirs) + margin
                held = f"{max(found.peak_bytes for found in ours) / 1e6:.0f}"
                table.add_row(family, f"{share:g}", held, tell(ours), tell(theirs))
    wide_console().print(table)
    return int(is_worse)


def replay(
    prompts: PromptTokens, sessions: Mapping[str, list[Step]], family: str, limit: int, order: int
) -> Found:
    """Run one order of the requests."""
    chance = random.Random(order)
    requests = in_order(sessions, chance)
    return Replay(prompts, STATES_BYTES[family], limit).run(requests, chance)


def beyond(found: Sequence[Found]) -> int:
    """The tokens of all orders."""
    return sum(each.beyond for each in found)


def tell(found: Sequence[Found]) -> str:
    """The tokens and requests of all orders."""
    return f"{beyond(found):,} ({sum(each.above for each in found)})"
