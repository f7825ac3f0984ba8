"""A busy child process ends with its parent."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil

from tests.waiting import wait_for

CHILD = """
import signal
from worker.isolation.parent_watch import watch_parent
watch_parent()
print("watching", flush=True)
signal.pause()
"""
PARENT = f"""
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}])
print(child.pid, flush=True)
signal.pause()
"""


def test_a_child_exits_after_its_parent_was_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert parent.stdout.readline() == "watching\n"
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert parent.returncode == -signal.SIGKILL
