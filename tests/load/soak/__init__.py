"""Minutes of mixed requests on a service of its own, while its worker, or a rank, is lost."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console

from tests.e2e.daemon import Daemon, running
from tests.e2e.footprint import footprint_of
from tests.e2e.network_namespace import NamespaceHost, namespace_host, running_apart
from tests.load.observed import ANSWER
from tests.load.servers import MODEL_HELP, find_model
from tests.load.soak.cases import Case, Longest, draw_cases, with_stop
from tests.load.soak.clients import HUNG_AFTER_S, Outcome, ask, draw_manner
from tests.load.soak.faults import Faults
from tests.load.soak.overload import time_refusals
from tests.load.soak.report import Holding, Report, differ
from tests.models import families
from tests.waiting import HANG_S

# Requests at once while the expected answers are recorded.
COMPANIES = (1, 4, 8, 24)
TELL_EVERY_S = 10.0
SETTLE_S = 30.0
SETTLE_POLL_S = 0.5
POLL_S = 0.02
# More than there are clients, so that no request is refused.
MAX_WAITING = 32
PLACES = 2 * MAX_WAITING
OBSERVED = "tests.load.observed"
# From the start of the ranks; a service that was healthy tolerates the next exit.
HEALTHY_AFTER_S = 25.0
# On a busy machine ranks start for long, and no request may end for that.
RANK_FLAGS = ("--stall-s", "20", "--ranks-away-s", "600", "--queue-timeout-s", "600")


def batched(cases: Sequence[Case], size: int) -> Iterator[Sequence[Case]]:
    """The cases in batches of `size`."""
    for start in range(0, len(cases), size):
        yield cases[start : start + size]


class Soak:
    """One run: its clients, the task that kills the worker, and the figures."""

    def __init__(
        self,
        daemon: Daemon,
        options: argparse.Namespace,
        console: Console,
        host: NamespaceHost | None = None,
    ) -> None:
        self._daemon = daemon
        self._options = options
        self._console = console
        self._chance = random.Random(options.seed)
        self._faults = Faults(random.Random(options.seed), host)
        self._report = Report(options.seed, faults_made=self._faults.counts)
        self._right: dict[int, Outcome] = {}
        self._until = 0.0

    async def run(self) -> Report:
        """Record the expected answers, then request them while the worker is killed."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=self._daemon.url, timeout=2 * HUNG_AFTER_S, limits=limits
        ) as client:
            # The first connection opens what the service keeps from then on.
            await client.get("/health")
            await asyncio.sleep(SETTLE_POLL_S)
            fresh = await self._holding()
            cases = await self._learn(client)
            # Refusals are the service's alone, and filling all places takes ranks long.
            if self._options.ranks == 1:
                self._report.refusal_ms = asdict(await time_refusals(client, PLACES))
            # The memory is compared with that of a service that has worked already.
            warm = footprint_of(self._daemon.process.pid)
            footprint = replace(fresh.footprint, resident_bytes=warm.resident_bytes)
            self._report.before = replace(fresh, footprint=footprint)
            began = time.monotonic()
            self._until = began + 60 * self._options.minutes
            async with asyncio.TaskGroup() as tasks:
                killer = tasks.create_task(self._kill(client))
                teller = tasks.create_task(self._tell())
                async with asyncio.TaskGroup() as clients:
                    for number in range(self._options.clients):
                        chance = random.Random(f"{self._options.seed} {number}")
                        clients.create_task(self._ask_on(client, cases, chance))
                killer.cancel()
                teller.cancel()
            self._report.seconds = round(time.monotonic() - began, 1)
            await self._settle(client)
        return self._report

    async def _learn(self, client: httpx.AsyncClient) -> list[Case]:
        """Cases, a third of them with stop strings, and each one's undisturbed answer.

        Where an answer depends on what runs beside it, two tokens were as good as equally
        likely: such a case can prove nothing, and is left out.
        """
        longest = Longest(self._options.longest_words, self._options.longest_tokens)
        cases = draw_cases(self._chance, self._options.cases, longest)
        for first in await self._together(client, cases):
            if first.case.number % 3 == 0:
                cases[first.case.number] = with_stop(self._chance, first.case, first.text)
        self._right = {o.case.number: o for o in await self._together(client, cases)}
        for beside in COMPANIES:
            for company in batched(self._chance.sample(cases, len(cases)), beside):
                for outcome in await self._together(client, company):
                    expected = self._right.get(outcome.case.number, outcome)
                    if differ(outcome, expected):
                        del self._right[outcome.case.number]
        self._report.cases = len(self._right)
        return [case for case in cases if case.number in self._right]

    async def _together(self, client: httpx.AsyncClient, cases: Sequence[Case]) -> list[Outcome]:
        return await asyncio.gather(*(self._undisturbed(client, case) for case in cases))

    async def _undisturbed(self, client: httpx.AsyncClient, case: Case) -> Outcome:
        outcome = await ask(client, case, stream=False, manner="read", stay_s=0)
        if outcome.end != "finished":
            raise RuntimeError(f"no answer to compare with: {outcome}")
        return outcome

    async def _ask_on(
        self, client: httpx.AsyncClient, cases: list[Case], chance: random.Random
    ) -> None:
        while time.monotonic() < self._until:
            case = chance.choice(cases)
            stream, manner, stay_s = draw_manner(chance)
            self._report.sent += 1
            outcome = await ask(client, case, stream=stream, manner=manner, stay_s=stay_s)
            self._report.add(outcome, self._right)

    async def _kill(self, client: httpx.AsyncClient) -> None:
        """Make a fault at intervals, if there is a worker, until the last request is sent.

        The requests that are then in flight finish without faults. On a busy machine that can take
        long, and more would exceed what the service tolerates: so ranks are healthy in between.
        """
        while time.monotonic() + self._options.kill_every_s < self._until:
            await asyncio.sleep(self._options.kill_every_s)
            health = (await client.get("/health")).json()
            if self._options.ranks > 1 and not has_settled(health):
                continue
            self._report.kills += await self._faults.strike(health["worker"])

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            report, left_s = self._report, max(0.0, self._until - time.monotonic())
            self._console.print(
                f"{left_s:5.0f} s to go: {report.kills} kills, {report.sent} sent, "
                f"{report.finished} finished, {report.left} left, {report.failed} failed, "
                f"{report.wrong} wrong",
                highlight=False,
            )

    async def _settle(self, client: httpx.AsyncClient) -> None:
        """Wait until nothing is in flight and the resources are those at the start."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            requests = (await client.get("/health")).json()["requests"]
            if not any(requests.values()) or time.monotonic() > deadline:
                break
            await asyncio.sleep(SETTLE_POLL_S)
        self._report.in_flight = sum(requests.values())
        while time.monotonic() < deadline:
            # Sampled from outside: a request would open a connection.
            self._report.after = await self._holding()
            if not self._report.left_over:
                return
            await asyncio.sleep(SETTLE_POLL_S)

    async def _holding(self) -> Holding:
        """The resources that the service holds now. A signal makes it print its tasks.

        Raises:
            TimeoutError: it printed none.
        """
        told = self._daemon.lines
        before = len(told)
        self._daemon.signal(signal.SIGUSR1)
        async with asyncio.timeout(HANG_S):
            while True:
                for line in told[before:]:
                    if line.startswith(ANSWER):
                        tasks = int(line.removeprefix(ANSWER))
                        return Holding(footprint_of(self._daemon.process.pid), tasks)
                await asyncio.sleep(POLL_S)


def has_settled(health: dict[str, Any]) -> bool:
    """Whether all ranks run for as long as the service takes for healthy."""
    worker: dict[str, Any] = health["worker"]
    return bool(health["status"] == "healthy" and worker["uptime_s"] > HEALTHY_AFTER_S)


@contextlib.contextmanager
def service(options: argparse.Namespace) -> Iterator[tuple[Daemon, NamespaceHost | None]]:
    """A service on the model, or on a tiny one made for it; and the host of its second rank."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chosen = options.model or families.make(families.LLAMA, folder / "tiny")
        flags = ["--max-running", str(PLACES - MAX_WAITING), "--max-waiting", str(MAX_WAITING)]
        if options.ranks > 1 or options.apart:
            flags += RANK_FLAGS
        if not options.apart:
            flags += ["--ranks", str(options.ranks)]
            yield stack.enter_context(running(chosen, flags=flags, program=OBSERVED)), None
            return
        host = stack.enter_context(namespace_host())
        apart = running_apart(host, chosen, folder, flags, program=OBSERVED)
        yield stack.enter_context(apart), host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of this script."""
    parser.add_argument("--model", type=find_model, help=MODEL_HELP)
    parser.add_argument("--longest-words", type=int, default=600, help="of a prompt")
    parser.add_argument("--longest-tokens", type=int, default=400, help="of an answer")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=24, help="requests at once")
    parser.add_argument("--cases", type=int, default=64, help="different requests to draw from")
    parser.add_argument("--kill-every-s", type=float, default=20.0)
    parser.add_argument("--ranks", type=int, default=1, help="of which one is killed or stopped")
    parser.add_argument(
        "--apart", action="store_true", help="two ranks, one in a network namespace that is cut off"
    )
    parser.add_argument("--json", type=Path, help="a file for the figures")


def main(options: argparse.Namespace) -> int:
    """Soak; returns 1 if there was a fault."""
    console = Console()
    if options.apart:
        options.ranks = 2
    with service(options) as (daemon, host):
        report = asyncio.run(Soak(daemon, options, console, host).run())
    figures = msgspec.json.format(msgspec.json.encode(asdict(report)), indent=2)
    console.print(figures.decode(), highlight=False)
    if options.json:
        options.json.write_bytes(figures)
    for fault in report.faults:
        console.print(f"FAULT: {fault}", highlight=False)
    return int(bool(report.faults))
