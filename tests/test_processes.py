"""Processes that a test leaves running are found, whichever process started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.processes import left_processes
from tests.waiting import wait_for

NAP = "import time; time.sleep(3600)"


def lines_about(pid: int) -> list[str]:
    """The lines that name this process. Services that tests share may be running beside it."""
    return [line for line in left_processes(orphan_timeout_s=0) if line.startswith(f"{pid} ")]


def test_a_child_is_named_until_its_exit_code_is_read() -> None:
    with subprocess.Popen([sys.executable, "-c", NAP]) as child:
        [running] = lines_about(child.pid)
        assert NAP in running
        child.kill()
        wait_for(lambda: "its exit code was not read" in "".join(lines_about(child.pid)))
    assert lines_about(child.pid) == []


def test_an_orphan_is_named_until_it_has_ended() -> None:
    command = f"[sys.executable, '-c', {NAP!r}], stdout=subprocess.DEVNULL"
    start = f"import subprocess, sys; print(subprocess.Popen({command}).pid)"
    parent = subprocess.run(
        [sys.executable, "-c", start], stdout=subprocess.PIPE, text=True, check=True
    )
    orphan = int(parent.stdout)
    [running] = lines_about(orphan)
    assert NAP in running
    os.kill(orphan, signal.SIGKILL)
    wait_for(lambda: lines_about(orphan) == [])
