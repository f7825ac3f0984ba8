"""The supervisor over a real process: it waits for memory, and it is told to stop at any time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from protocol.messages import Configure, ModelSource, Step
from service.supervision.restart_policy import RestartLimits
from service.supervision.supervisor import Supervisor, Timeouts
from tests.fakes.service import FAKE_WORKER_COMMAND
from tests.fakes.worker import WEIGHT_BYTES

pytestmark = pytest.mark.anyio

CONFIGURE = Configure([ModelSource("fake", "unused")], 8, 512, 0, 0, 0)
PATIENCE = Timeouts(load_timeout_s=60.0, stall_s=60.0)


class Idler:
    """A listener with nothing to do that counts what it is told."""

    busy = False

    def __init__(self) -> None:
        self.ready = asyncio.Queue[None]()
        self.lost = 0

    def worker_stepped(self, step: Step) -> int:
        return 0

    def worker_ready(self) -> None:
        self.ready.put_nowait(None)

    def worker_lost(self) -> bool:
        self.lost += 1
        return False

    def worker_given_up(self, reason: str) -> None: ...


def supervise(
    available: Iterator[int | None], restart_limits: RestartLimits | None = None
) -> Supervisor:
    return Supervisor(
        CONFIGURE,
        FAKE_WORKER_COMMAND,
        os.environ,
        timeouts=PATIENCE,
        on_loading=lambda _: None,
        restart_limits=restart_limits,
        available_bytes=lambda: next(available),
    )


def kill(supervisor: Supervisor) -> None:
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)


@pytest.mark.parametrize("enough", [WEIGHT_BYTES, None])
async def test_the_next_worker_starts_when_there_is_memory_for_it_or_nobody_knows(
    enough: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor, idler = supervise(iter([WEIGHT_BYTES - 1, enough])), Idler()
    supervisor.listen(idler)
    running = asyncio.create_task(supervisor.run())
    await idler.ready.get()
    kill(supervisor)
    await idler.ready.get()
    assert (supervisor.restarts, supervisor.status, idler.lost) == (1, "healthy", 1)
    assert caplog.text.count("waiting for memory") == 1
    await supervisor.stop()
    await running


async def test_stopping_while_it_waits_starts_no_other_worker() -> None:
    supervisor, idler = supervise(iter([]), RestartLimits(first_back_off_s=3600.0)), Idler()
    supervisor.listen(idler)
    running = asyncio.create_task(supervisor.run())
    await idler.ready.get()
    kill(supervisor)
    while supervisor.last_exit is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert supervisor.status == "restarting"
    await supervisor.stop()
    await running
    assert supervisor.pid is None
    assert (supervisor.last_exit.signal, supervisor.last_exit.phase) == ("SIGKILL", "idle")


async def test_a_command_that_cannot_serve_is_the_end_with_its_exit_code() -> None:
    supervisor = Supervisor(
        CONFIGURE,
        (sys.executable, "-c", "raise SystemExit(9)"),
        os.environ,
        timeouts=PATIENCE,
        on_loading=lambda _: None,
    )
    supervisor.listen(Idler())
    await supervisor.run()
    assert (supervisor.status, supervisor.failure) == ("failed", "the worker ended: exit code 9")
