"""The memory of large bodies goes back to the system when they are freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A small block behind each large one keeps the heap from becoming shorter.
PROGRAM = """
from pathlib import Path
from service.transport.freed_memory import return_large_blocks

if {returned}:
    assert return_large_blocks()
large = bytes([1]) * BODY
large = None
pairs = [(bytes([1]) * BODY, bytes(1000)) for _ in range(16)]
small = [pair[1] for pair in pairs]
del pairs
print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
"""
BODY_BYTES = 15 * 2**20


def resident_bytes(*, returned: bool) -> int:
    """What a process has resident that has freed 16 bodies."""
    program = PROGRAM.replace("BODY", str(BODY_BYTES)).format(returned=returned)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc alone")
def test_the_memory_of_freed_bodies_is_given_back() -> None:
    kept, returned = resident_bytes(returned=False), resident_bytes(returned=True)
    assert returned < kept - 8 * BODY_BYTES
