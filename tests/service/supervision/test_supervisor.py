"""The supervisor with a real process: it waits for memory, and can be stopped at any time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from protocol.events import Rejected, Tokenized
from protocol.messages import Configure, ModelSource, Step
from service.supervision.restart_policy import RestartLimits
from service.supervision.supervisor import Supervisor
from service.supervision.worker_clocks import Timeouts
from tests.fakes.service import FAKE_WORKER_COMMAND
from tests.fakes.worker import WEIGHT_BYTES

pytestmark = pytest.mark.anyio

CONFIGURE = Configure(
    models=[ModelSource("fake", "unused")],
    max_running=8,
    prefill_step_tokens=512,
    context_limit_tokens=0,
    memory_limit_bytes=0,
    cache_limit_bytes=0,
)
TIMEOUTS = Timeouts(load_timeout_s=60.0, stall_s=60.0)


class IdleObserver:
    """An observer without requests that counts its calls."""

    busy = False

    def __init__(self) -> None:
        self.ready = asyncio.Queue[None]()
        self.lost = 0

    def worker_stepped(self, step: Step) -> int:
        return 0

    def worker_tokenized(self, result: Tokenized | Rejected) -> None: ...

    def worker_ready(self) -> None:
        self.ready.put_nowait(None)

    def worker_lost(self, *, blameless: bool) -> bool:
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
        timeouts=TIMEOUTS,
        on_loading=lambda _: None,
        restart_limits=restart_limits,
        available_bytes=lambda: next(available),
    )


def kill(supervisor: Supervisor) -> None:
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)


@pytest.mark.parametrize("enough", [WEIGHT_BYTES, None])
async def test_the_next_worker_starts_once_memory_is_available_or_unknown(
    enough: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor, observer = supervise(iter([WEIGHT_BYTES - 1, enough])), IdleObserver()
    supervisor.set_observer(observer)
    running = asyncio.create_task(supervisor.run())
    await observer.ready.get()
    kill(supervisor)
    await observer.ready.get()
    assert (supervisor.restarts, supervisor.status, observer.lost) == (1, "healthy", 1)
    assert caplog.text.count("waiting for memory") == 1
    await supervisor.stop()
    await running


async def test_no_worker_starts_after_a_stop_during_the_back_off() -> None:
    supervisor, observer = (
        supervise(iter([]), RestartLimits(initial_back_off_s=3600.0)),
        IdleObserver(),
    )
    supervisor.set_observer(observer)
    running = asyncio.create_task(supervisor.run())
    await observer.ready.get()
    kill(supervisor)
    while supervisor.last_exit is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert supervisor.status == "restarting"
    await supervisor.stop()
    await running
    assert supervisor.pid is None
    assert (supervisor.last_exit.signal, supervisor.last_exit.phase) == ("SIGKILL", "idle")


async def test_a_first_worker_that_exits_fails_the_service_with_its_exit_code() -> None:
    supervisor = Supervisor(
        CONFIGURE,
        (sys.executable, "-c", "raise SystemExit(9)"),
        os.environ,
        timeouts=TIMEOUTS,
        on_loading=lambda _: None,
    )
    supervisor.set_observer(IdleObserver())
    await supervisor.run()
    assert (supervisor.status, supervisor.failure) == ("failed", "the worker exited: exit code 9")
