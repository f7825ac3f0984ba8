"""Bodies' memory, given back to the system as soon as it is freed.

glibc (2.36) maps a block of its own for a large body, and unmaps it at the end. But with the first
one that it frees it takes larger and larger blocks (up to 32 MiB) from its heaps, one for each
thread, and keeps them: after 50 bodies of 15 MB whose clients had left, the service had 60 MB in
use and 560 MB resident. A threshold that is set once stays. With one of 256 KiB the service kept
210 MB after 900 unfinished bodies of 60 KB, with this one 112 MB.
"""

from __future__ import annotations

import contextlib
import ctypes

# mallopt(3): blocks from this size on are mapped.
M_MMAP_THRESHOLD = -3
MAPPED_BLOCK_BYTES = 32 * 1024


def return_large_blocks() -> bool:
    """Have each large block returned to the system when it is freed; False without glibc."""
    with contextlib.suppress(AttributeError, OSError):
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_BLOCK_BYTES))
    return False
