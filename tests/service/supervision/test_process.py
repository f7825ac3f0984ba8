"""The environment of the worker process, which `worker` package it runs, and its exit."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import worker
from protocol.messages import Ping, Pong, ToService
from service.commands.serve import loop_factory
from service.config.api_keys import API_KEYS_VARIABLE
from service.supervision.preloads import Preloads
from service.supervision.process import WORKER_COMMAND, WorkerProcess, worker_environ
from tests.waiting import HANG_S, wait_for

# It sends a message, reads nothing, and says that it has sent.
DEAF_WORKER = """
import pathlib, sys, time
from multiprocessing.connection import Connection
from protocol.channel import worker_end
from protocol.messages import Pong
channel = worker_end(Connection(int(sys.argv[2])))
channel.send(Pong())
channel.flush(60)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""


def test_the_environment_is_inherited_and_has_the_preloaded_libraries() -> None:
    environ = worker_environ({"A": "1", "LD_PRELOAD": "x.so"}, Preloads("/lib/blas.so"))
    assert (environ["A"], environ["LD_PRELOAD"]) == ("1", "/lib/blas.so x.so")


def test_the_api_keys_are_not_in_the_environment() -> None:
    assert API_KEYS_VARIABLE not in worker_environ({API_KEYS_VARIABLE: "KEY"}, Preloads())


def test_a_folder_named_worker_in_the_current_directory_is_not_imported(
    tmp_path: Path,
) -> None:
    other = tmp_path / "worker"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('the wrong worker')")
    python, *options, _ = WORKER_COMMAND[:-1]
    completed = subprocess.run(
        [python, *options, "-c", "import worker; print(worker.__file__)"],
        cwd=tmp_path,
        env=worker_environ({}, Preloads()),
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout.strip() == worker.__file__


def test_a_worker_that_runs_a_models_code_gets_no_secrets() -> None:
    secrets = {"HF_TOKEN": "a", "MY_API_KEY": "a", "X_HEADERS": "a", "PROXY": "http://me:pw@host"}
    kept = {"PATH": "/bin", "HF_HOME": "/h", "TOKENIZERS_PARALLELISM": "false"}
    environ = worker_environ({**secrets, **kept}, Preloads(), runs_remote_code=True)
    assert not secrets.keys() & environ.keys()
    assert kept.items() <= environ.items()
    assert environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
    assert secrets.items() <= worker_environ(secrets, Preloads()).items()


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, loop_factory()])
def test_the_exit_of_a_worker_that_has_not_read_all_is_noticed_behind_its_last_message(
    make_loop: Callable[[], asyncio.AbstractEventLoop] | None, tmp_path: Path
) -> None:
    async def kill_unread() -> tuple[list[ToService], int]:
        messages: list[ToService] = []
        status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        sent = tmp_path / "sent"
        process = WorkerProcess(
            [sys.executable, "-c", DEAF_WORKER, str(sent)],
            worker_environ(os.environ, Preloads()),
            on_message=messages.append,
            on_exit=status.set_result,
        )
        process.send(Ping())
        # The event loop does not run until the worker is dead.
        wait_for(sent.exists)
        process.kill()
        wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        async with asyncio.timeout(HANG_S):
            while not status.done():
                process.notice_exit()
                await asyncio.sleep(0.01)
        return messages, await status

    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(kill_unread()) == ([Pong()], -signal.SIGKILL)
