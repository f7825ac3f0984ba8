"""The memory of bodies goes back to the system when they are freed."""

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
pairs = [(bytes([1]) * BODY, bytes(1000)) for _ in range(COUNT)]
small = [pair[1] for pair in pairs]
del pairs
print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
"""


def resident_bytes(body_bytes: int, count: int, *, returned: bool) -> int:
    """The resident memory of a process that has freed `count` bodies."""
    program = PROGRAM.replace("BODY", str(body_bytes)).replace("COUNT", str(count))
    program = program.format(returned=returned)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc alone")
@pytest.mark.parametrize(("body_bytes", "count"), [(15 * 2**20, 16), (60_000, 2_000)])
def test_the_memory_of_freed_bodies_is_given_back(body_bytes: int, count: int) -> None:
    kept = resident_bytes(body_bytes, count, returned=False)
    returned = resident_bytes(body_bytes, count, returned=True)
    assert returned < kept - body_bytes * count // 2
