"""Freed memory is returned to the system and leaves the footprint."""

from __future__ import annotations

import subprocess
import sys

import pytest

from service.supervision.preloads import find_preloads

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
