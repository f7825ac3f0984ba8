"""Keeps a Mac from going to sleep while requests run.

macOS ends network connections and computation when it sleeps for want of input. The seam is
one command: `caffeinate` holds the assertion as long as it lives, and leaves with us. On a Mac
this has not been run yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Protocol

logger = logging.getLogger(__name__)

# Between two requests of a conversation the command need not be started again.
LINGER_S = 30.0
END_TIMEOUT_S = 2.0


class InFlight(Protocol):
    """What is watched."""

    async def wait_busy(self) -> None:
        """Wait until something is in flight."""

    async def wait_idle(self) -> None:
        """Wait until nothing is."""


def caffeinate(pid: int) -> tuple[str, ...]:
    """What holds off idle sleep until it ends, or the process `pid` does. See caffeinate(8)."""
    return ("/usr/bin/caffeinate", "-i", "-w", str(pid))


class SleepPrevention:
    """Runs `command` while anything is in flight, and for `linger_s` after."""

    def __init__(
        self, in_flight: InFlight, command: Sequence[str], *, linger_s: float = LINGER_S
    ) -> None:
        self._in_flight = in_flight
        self._command = command
        self._linger_s = linger_s

    async def run(self) -> None:
        """Watch until cancelled. Where the command cannot be run, that is said once."""
        while True:
            await self._in_flight.wait_busy()
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    # It needs none, and the service's may hold keys.
                    env={},
                    # A terminal's Ctrl-C lets requests finish: it must not reach the command.
                    start_new_session=True,
                )
            except OSError as error:
                logger.warning("the machine may sleep while requests run: %s", error)
                return
            try:
                await self._wait_quiet()
            finally:
                await end(process)

    async def _wait_quiet(self) -> None:
        while True:
            await self._in_flight.wait_idle()
            try:
                await asyncio.wait_for(self._in_flight.wait_busy(), self._linger_s)
            except TimeoutError:
                return


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process that holds nothing but its own life."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
