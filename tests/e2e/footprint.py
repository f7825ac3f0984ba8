"""The resources of a process, from /proc: descriptors, threads, children, memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import wait_for

# asyncio starts the threads of its pool one by one, and keeps them for the next use.
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)


@dataclass(frozen=True)
class Footprint:
    """Counts, and resident bytes."""

    descriptors: int
    threads: int
    children: int
    resident_bytes: int


def footprint_of(pid: int) -> Footprint:
    """What the process holds now."""
    process = Path(f"/proc/{pid}")
    tasks = list((process / "task").iterdir())
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    pages = int((process / "statm").read_text().split()[1])
    return Footprint(len(list((process / "fd").iterdir())), len(tasks), len(children), pages * 4096)


def wait_until_back(pid: int, before: Footprint, *, growth_bytes: int) -> None:
    """Wait until it holds no more than before, but for a pool of threads and little memory."""

    def is_back() -> bool:
        now = footprint_of(pid)
        return (
            now.descriptors <= before.descriptors
            and now.threads <= before.threads + POOL_THREADS
            and now.children <= before.children
            and now.resident_bytes <= before.resident_bytes + growth_bytes
        )

    wait_for(is_back, lambda: f"it holds {footprint_of(pid)}, before it held {before}")
