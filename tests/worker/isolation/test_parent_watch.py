"""A child process ends with its parent, also while it is busy or stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.waiting import wait_for

CHILD = """
import signal
from worker.isolation.parent_watch import end_with_parent, watch_parent
{calls}
print("watching", flush=True)
signal.pause()
"""
PARENT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}])
print(child.pid, flush=True)
signal.pause()
"""


@contextmanager
def child_of_killed_parent(calls: str, stop: bool = False) -> Iterator[psutil.Process]:
    """A child that has made these calls, whose parent is killed when the block begins."""
    program = PARENT.format(child=CHILD.format(calls=calls))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert parent.stdout.readline() == "watching\n"
        if stop:
            child.send_signal(signal.SIGSTOP)
        parent.send_signal(signal.SIGKILL)
    assert parent.returncode == -signal.SIGKILL
    yield child


def test_a_child_whose_parent_has_ended_before_ends_at_once() -> None:
    program = "import sys\nfrom worker.isolation.parent_watch import end_with_parent\n"
    program += "end_with_parent(sys.stdin.fileno())\nprint('goes on')"
    for parent_lives in (True, False):
        reader, writer = os.pipe()
        if not parent_lives:
            os.close(writer)
        done = subprocess.run(
            [sys.executable, "-c", program], stdin=reader, capture_output=True, check=False
        )
        assert done.stdout == (b"goes on\n" if parent_lives else b"")
        os.close(reader)
        if parent_lives:
            os.close(writer)


def has_ended(child: psutil.Process) -> bool:
    """Whether it has ended, reaped or not."""
    try:
        return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_child_exits_after_its_parent_was_killed() -> None:
    with child_of_killed_parent("watch_parent()") as child:
        wait_for(lambda: has_ended(child))


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux' kernel")
def test_the_kernel_ends_a_stopped_child_with_its_parent() -> None:
    with child_of_killed_parent("end_with_parent()", stop=True) as child:
        wait_for(lambda: has_ended(child))
