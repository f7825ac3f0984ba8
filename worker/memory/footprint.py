"""The process's memory as the system counts it, and the return of freed memory to the system."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

STATM = Path("/proc/self/statm")
STATM_BYTES = 256
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# macOS: proc_pid_rusage(2) of libproc with flavor RUSAGE_INFO_V0. The eighth 64-bit word after
# the identifier's 16 bytes is ri_phys_footprint, which Activity Monitor shows as memory.
RUSAGE_INFO_V0 = 0
RUSAGE_WORDS = 12
PHYS_FOOTPRINT_WORD = 9
# jemalloc(3): 4096 is MALLCTL_ARENAS_ALL, all arenas.
PURGE_ALL = b"arena.4096.purge"


def read_footprint() -> int:
    """This process's memory in bytes; 0 if the system does not report it."""
    if (statm := _open_statm()) is not None:
        return int(os.pread(statm, STATM_BYTES, 0).split()[1]) * PAGE_BYTES
    if hasattr(_system_library(), "proc_pid_rusage"):
        return read_phys_footprint(os.getpid())
    return 0


def read_footprint_of(pid: int) -> int:
    """Another process's memory in bytes; 0 if it has ended or the system does not report it."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        has_rusage = hasattr(_system_library(), "proc_pid_rusage")
        return read_phys_footprint(pid) if has_rusage else 0


def read_phys_footprint(pid: int) -> int:
    """macOS: the physical footprint, which includes memory that the GPU uses."""
    words = (ctypes.c_uint64 * RUSAGE_WORDS)()
    failed = _system_library().proc_pid_rusage(pid, RUSAGE_INFO_V0, ctypes.byref(words))
    return 0 if failed else int(words[PHYS_FOOTPRINT_WORD])


def trim_heap() -> None:
    """Return freed pages to the system.

    Without this, glibc keeps the pages of small blocks, and a preloaded jemalloc keeps all
    freed pages for some seconds.
    """
    library = _system_library()
    if hasattr(library, "mallctl"):
        library.mallctl(PURGE_ALL, None, None, None, 0)
    elif hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


@cache
def _open_statm() -> int | None:
    """The open file: it is read at every step, and opening it takes most of the time."""
    return os.open(STATM, os.O_RDONLY | os.O_CLOEXEC) if STATM.exists() else None


@cache
def _system_library() -> Any:
    return ctypes.CDLL(None)
