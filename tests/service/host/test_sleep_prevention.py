from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from service.host.sleep_prevention import SleepPrevention, caffeinate
from tests.waiting import HANG_S

pytestmark = pytest.mark.anyio

POLL_S = 0.01


class Work:
    """Requests in flight: some or none."""

    def __init__(self) -> None:
        self._busy, self._idle = asyncio.Event(), asyncio.Event()
        self.end()

    def begin(self) -> None:
        self._idle.clear()
        self._busy.set()

    def end(self) -> None:
        self._busy.clear()
        self._idle.set()

    async def wait_busy(self) -> None:
        await self._busy.wait()

    async def wait_idle(self) -> None:
        await self._idle.wait()


class HoldingCommand:
    """A command with a file for each running process; the file is removed when the process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The start is counted before the file shows it: the test may end the command at once then.
        script = (
            'trap "rm $0.$$; exit" TERM; echo x >> $0; touch $0.$$; while :; do sleep 0.01; done'
        )
        self.command = ("/bin/sh", "-c", script, str(folder / "held"))

    @property
    def held(self) -> int:
        return len(list(self._folder.glob("held.*")))

    @property
    def starts(self) -> int:
        path = self._folder / "held"
        return len(path.read_text().split()) if path.exists() else 0


@contextlib.asynccontextmanager
async def watching(work: Work, holder: HoldingCommand, linger_s: float) -> AsyncIterator[None]:
    task = asyncio.create_task(SleepPrevention(work, holder.command, linger_s=linger_s).run())
    try:
        async with asyncio.timeout(HANG_S):
            yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], bool]) -> None:
    """Poll until `condition` holds; the deadline of `watching` bounds it."""
    while not condition():  # noqa: ASYNC110 (another process sets no event)
        await asyncio.sleep(POLL_S)


async def test_the_command_runs_while_a_request_runs_and_ends_after(tmp_path: Path) -> None:
    work, holder = Work(), HoldingCommand(tmp_path)
    async with watching(work, holder, linger_s=0.01):
        for _ in range(2):
            work.begin()
            await until(lambda: holder.held == 1)
            work.end()
            await until(lambda: holder.held == 0)
    assert holder.starts == 2


async def test_the_command_keeps_running_in_a_short_pause(tmp_path: Path) -> None:
    work, holder = Work(), HoldingCommand(tmp_path)
    async with watching(work, holder, linger_s=HANG_S):
        work.begin()
        await until(lambda: holder.held == 1)
        for _ in range(10):
            work.end()
            await asyncio.sleep(0)
            work.begin()
            await asyncio.sleep(0)
        assert holder.held == 1
    assert (holder.held, holder.starts) == (0, 1)


async def test_a_command_that_does_not_exist_gives_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Work()
    work.begin()
    with caplog.at_level(logging.WARNING):
        await SleepPrevention(work, ("/nowhere/caffeinate",)).run()
    assert len(caplog.records) == 1


def test_caffeinate_ends_with_the_process_it_gets() -> None:
    assert caffeinate(42) == ("/usr/bin/caffeinate", "-i", "-w", "42")
