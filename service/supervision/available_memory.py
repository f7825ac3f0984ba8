"""Reads how much memory of the machine is available: the one place that asks the system.

The outputs of macOS' command are those of recorded ones; it has not been run by mlxd on a Mac yet.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
KIB = 1024
# vm_stat(1) prints the kernel's host_statistics64 in pages.
VM_STAT = ("/usr/bin/vm_stat",)
VM_STAT_TIMEOUT_S = 2.0
PAGE_SIZE = re.compile(r"page size of (\d+) bytes")
PAGES = re.compile(r"^\"?([^\":]+)\"?:\s+(\d+)\.?$", re.MULTILINE)
# What a new process gets without compressing or swapping that of others: free pages, caches of
# files (which include the speculative pages), and what its owners allow to be purged.
AVAILABLE_PAGES = ("Pages free", "File-backed pages", "Pages purgeable")

# How long a restart waits for the memory that the weights need, and how often it checks.
WAIT_S = 30.0
POLL_S = 0.5

logger = logging.getLogger(__name__)

Run = Callable[[], str]


async def wait_for_memory(
    available_bytes: Callable[[], int | None],
    needed_bytes: int,
    wait: Callable[[float], Awaitable[bool]],
) -> None:
    """Wait until the machine has the memory that the weights need, for a bounded time.

    `wait` waits for so many seconds; whether the service stops.
    """
    deadline = time.monotonic() + WAIT_S
    logged = False
    while (left := available_bytes()) is not None and left < needed_bytes:
        if not logged:
            logger.warning(
                "waiting for memory: the weights need %d MiB, %d MiB are available",
                needed_bytes >> 20,
                left >> 20,
            )
            logged = True
        if time.monotonic() > deadline or await wait(POLL_S):
            return


def read_available(platform: str = sys.platform) -> int | None:
    """The bytes that a new process can use without swapping; None where unknown."""
    return read_vm_stat(run_vm_stat) if platform == "darwin" else read_meminfo(MEMINFO)


def read_meminfo(meminfo: Path) -> int | None:
    """Linux: `MemAvailable` of proc_meminfo(5)."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * KIB
    return None


def read_vm_stat(run: Run) -> int | None:
    """macOS: the sum of `AVAILABLE_PAGES`, None if one of them is missing."""
    try:
        output = run()
    except (OSError, subprocess.SubprocessError):
        return None
    size, pages = PAGE_SIZE.search(output), dict(PAGES.findall(output))
    if size is None or not pages.keys() >= set(AVAILABLE_PAGES):
        return None
    return int(size[1]) * sum(int(pages[name]) for name in AVAILABLE_PAGES)


def run_vm_stat() -> str:
    """The output of vm_stat.

    Raises:
        OSError, subprocess.SubprocessError: it failed.
    """
    return subprocess.run(
        VM_STAT, capture_output=True, text=True, timeout=VM_STAT_TIMEOUT_S, check=True
    ).stdout
