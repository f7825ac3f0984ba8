"""The processes that this session's tests started, and which of them are left."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil

# Every process that a test starts inherits it, and so do those that these start.
SESSION_VARIABLE = "TEST_SESSION_PID"
# How long a process that lost its parent may take to notice that.
ORPHAN_TIMEOUT_S = 120.0


def mark_session() -> None:
    """Name this process's session in its environment, for those that it starts."""
    os.environ[SESSION_VARIABLE] = str(os.getpid())


def left_processes(*, orphan_timeout_s: float = ORPHAN_TIMEOUT_S) -> list[str]:
    """A line for each process that a test started and did not wait for.

    A child of this process counts until its exit code is read. Orphans (a worker whose service
    was killed) have `orphan_timeout_s` to end.
    """
    own = psutil.Process()
    children = describe(own.children())
    _, orphans = psutil.wait_procs(find_orphans(own), timeout=orphan_timeout_s)
    return [*children, *describe(orphans)]


def find_orphans(own: psutil.Process) -> list[psutil.Process]:
    """Processes of this session below or beside its children, wherever they are now."""
    children = {process.pid for process in own.children()}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in children and process != own and session_of(process) == own.pid
    ]


def session_of(process: psutil.Process) -> int | None:
    """The session that a process was started in; None where that cannot be read."""
    try:
        return int(process.environ()[SESSION_VARIABLE])
    except (psutil.Error, KeyError, ValueError, OSError):
        return None


def describe(processes: Iterable[psutil.Process]) -> list[str]:
    """A line for each process: its id, its state and its command."""
    lines = []
    for process in processes:
        try:
            lines.append(f"{process.pid} {process.status()}: {' '.join(process.cmdline())[:200]}")
        except psutil.Error:
            lines.append(f"{process.pid} has ended, and its exit code was not read")
    return lines
