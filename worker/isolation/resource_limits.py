"""Limits of the system on this process, and its peak memory."""

from __future__ import annotations

import contextlib
import resource
import sys

MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def set_soft_limit(kind: int, limit: int) -> None:
    """Set a soft limit of `resource`; a limit that the system refuses is left as it is."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))


def peak_bytes() -> int:
    """The peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT_BYTES
