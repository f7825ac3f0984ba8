"""Waiting for processes that are not children of this one, and their processor time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.waiting import wait_for


def wait_gone(pid: int) -> None:
    """Wait for a process that is not ours to end."""
    wait_for(lambda: is_gone(pid), lambda: f"process {pid} lives on")


def is_gone(pid: int) -> bool:
    """Whether it has ended; its exit code may not have been asked for, without a parent to."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = read_stat(pid)
    return stat is not None and stat[0] == "Z"


def ticks_until_gone(pid: int) -> int:
    """Wait for its end; the ticks that it had computed when it was last seen."""
    ticks = processor_ticks(pid)

    def look() -> bool:
        nonlocal ticks
        ticks = max(ticks, processor_ticks(pid))
        return is_gone(pid)

    wait_for(look, lambda: f"process {pid} lives on")
    return ticks


def processor_ticks(pid: int) -> int:
    """How long a process has computed, in the system's ticks (mostly 10 ms); 0 without it."""
    stat = read_stat(pid)
    return 0 if stat is None else int(stat[11]) + int(stat[12])


def read_stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on, the state; None where there are none."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return None
