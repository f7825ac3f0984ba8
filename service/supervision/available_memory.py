"""Reads how much memory of the machine is available, where the system reports it."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
KIB = 1024


def read_available(meminfo: Path = MEMINFO) -> int | None:
    """The bytes that a new process can use without swapping; None where unknown.

    Source: Linux, proc_meminfo(5), `MemAvailable`. macOS reports no such number
    except by its own interfaces.
    """
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * KIB
    return None
