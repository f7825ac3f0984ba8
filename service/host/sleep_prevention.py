"""Prevents idle sleep of a Mac while requests run.

Without user input macOS goes to sleep, and then ends network connections and computation.
`caffeinate` holds a power assertion until it exits, and it exits with the service. This has not
been run on a Mac yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Protocol

logger = logging.getLogger(__name__)

# Long enough that the command keeps running between two requests of a conversation.
LINGER_S = 30.0
END_TIMEOUT_S = 2.0


class InFlight(Protocol):
    """The requests in flight."""

    async def wait_busy(self) -> None:
        """Wait until a request is in flight."""

    async def wait_idle(self) -> None:
        """Wait until no request is in flight."""


def caffeinate(pid: int) -> tuple[str, ...]:
    """The command that prevents idle sleep until the process `pid` ends. See caffeinate(8)."""
    return ("/usr/bin/caffeinate", "-i", "-w", str(pid))


class SleepPrevention:
    """Runs `command` while a request is in flight, and for `linger_s` after."""

    def __init__(
        self, in_flight: InFlight, command: Sequence[str], *, linger_s: float = LINGER_S
    ) -> None:
        self._in_flight = in_flight
        self._command = command
        self._linger_s = linger_s

    async def run(self) -> None:
        """Watch until cancelled. Returns after a warning if the command cannot be started."""
        while True:
            await self._in_flight.wait_busy()
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    # It needs no environment, and the service's may contain keys.
                    env={},
                    # After Ctrl-C in a terminal requests still finish, so the command must not
                    # receive that signal.
                    start_new_session=True,
                )
            except OSError as error:
                logger.warning("cannot prevent sleep while requests run: %s", error)
                return
            try:
                await self._wait_idle_for_linger()
            finally:
                await terminate(process)

    async def _wait_idle_for_linger(self) -> None:
        """Wait until no request has been in flight for `linger_s`."""
        while True:
            await self._in_flight.wait_idle()
            try:
                await asyncio.wait_for(self._in_flight.wait_busy(), self._linger_s)
            except TimeoutError:
                return


async def terminate(process: asyncio.subprocess.Process) -> None:
    """Terminate a process and wait for its end; after `END_TIMEOUT_S`, or if cancelled, kill it."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
    except TimeoutError:
        await kill(process)
    except asyncio.CancelledError:
        await kill(process)
        raise


async def kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
