"""Freed memory is returned to the system and leaves the footprint."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from service.supervision.preloads import find_preloads
from worker.memory import footprint

MIB = 1 << 20
SCRIPT = """
from worker.memory.footprint import read_footprint, trim_heap
blocks = [bytes(2000) for _ in range(100_000)]
held = read_footprint()
del blocks
trim_heap()
print(held, read_footprint())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
@pytest.mark.parametrize("allocator", ["off", "auto"])
def test_freed_memory_is_returned_to_the_system(allocator: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=find_preloads("off", allocator).apply_to({}),
        capture_output=True,
        text=True,
        check=True,
    )
    held, left = map(int, ran.stdout.split())
    assert held > 190 * MIB
    assert left < 60 * MIB


def test_on_macos_the_footprint_is_the_physical_one_that_the_system_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The words of rusage_info_v0: 16 bytes of identifier, then ten counters."""
    counters = [11, 12, 13, 14, 15, 16, 17, 18 * MIB, 19, 20]
    asked: list[tuple[int, int]] = []

    class Libproc:
        def proc_pid_rusage(self, pid: int, flavor: int, buffer: Any) -> int:
            asked.append((pid, flavor))
            for place, counter in enumerate(counters, 2):
                buffer._obj[place] = counter
            return -1 if pid == 404 else 0

    monkeypatch.setattr(footprint, "_system_library", Libproc)
    monkeypatch.setattr(footprint, "_open_statm", lambda: None)
    assert footprint.read_footprint() == footprint.read_phys_footprint(7) == 18 * MIB
    assert footprint.read_phys_footprint(404) == 0
    assert asked == [(os.getpid(), 0), (7, 0), (404, 0)]
