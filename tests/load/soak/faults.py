"""What happens to the service during a soak: its processes are killed, and those of ranks stopped,
or cut off where root can make network namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from typing import Any, get_args

import psutil

from tests.e2e.network_namespace import Cut, NamespaceHost

# A short cut is survived without a restart, a long one is not.
LONGEST_CUT_S = 25.0


class Faults:
    """Draws faults, makes them, and counts them by name."""

    def __init__(self, chance: random.Random, host: NamespaceHost | None) -> None:
        self._chance = chance
        self._host = host
        self.counts: dict[str, int] = {}

    async def strike(self, worker: dict[str, Any]) -> bool:
        """Make one, by what `/health` says of the worker; whether there was a process for it."""
        pids = [rank["pid"] for rank in worker["ranks"]]
        if not pids or None in pids:
            return False
        kinds = ["kill"] if len(pids) == 1 else ["kill", "stop"]
        kind = self._chance.choice([*kinds, *(["cut"] if self._host is not None else [])])
        if kind == "cut":
            await self._cut()
            return True
        rank = self._chance.randrange(len(pids))
        number = signal.SIGKILL if kind == "kill" else signal.SIGSTOP
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pids[rank]).send_signal(number)
        self._count(f"{kind} rank {rank}")
        return True

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    async def _cut(self) -> None:
        assert self._host is not None
        how: Cut = self._chance.choice(get_args(Cut))
        self._count(f"cut: {how}")
        self._host.cut(how)
        try:
            await asyncio.sleep(LONGEST_CUT_S * self._chance.random())
        finally:
            self._host.mend(how)
