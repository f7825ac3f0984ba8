"""Whether the system counts what MLX allocates, and gets it back."""

from __future__ import annotations

import mlx.core as mx

from worker.memory.budget import return_freed_memory
from worker.memory.device import system_memory_bytes
from worker.memory.footprint import read_footprint
from worker.selftest.measurement import Section, within

MIB = 1 << 20
SIZES_MIB = (16, 64, 128, 256, 512)
# The most of the machine's memory that one array takes.
LARGEST_SHARE = 1 / 16
# Pages and what the allocator keeps: the smallest array is 16 MiB.
LEAST_SHARE, MOST_SHARE = 0.8, 1.5
LEAST_RETURNED_SHARE = 0.8


def check(section: Section) -> None:
    """Allocate arrays of growing sizes, and free them."""
    most_mib = int(system_memory_bytes() * LARGEST_SHARE) // MIB
    for size_mib, _ in section.within_time("counted_share", SIZES_MIB):
        if size_mib > most_mib:
            section.skip("counted_share", "too much for this machine", at=size_mib)
        else:
            check_size(section, size_mib)
    section.report("cache_mib", round(mx.get_cache_memory() / MIB, 1), "MiB")


def check_size(section: Section, size_mib: int) -> None:
    """One array: what the footprint grows by, and what it loses."""
    size = size_mib * MIB
    return_freed_memory()
    before = read_footprint()
    array = mx.ones(size // 4, mx.float32)
    mx.eval(array)
    held = read_footprint()
    del array
    return_freed_memory()
    after = read_footprint()
    if not before:
        section.skip("counted_share", "the system does not say", at=size_mib)
        return
    counted, returned = (held - before) / size, (held - after) / size
    verdict = within(LEAST_SHARE <= counted <= MOST_SHARE)
    section.report("counted_share", round(counted, 3), at=size_mib, verdict=verdict)
    verdict = within(returned >= LEAST_RETURNED_SHARE)
    section.report("returned_share", round(returned, 3), at=size_mib, verdict=verdict)
