"""A process that gets no more memory than it has."""

from __future__ import annotations

import resource
from pathlib import Path


def limit_to_held(pid: int) -> None:
    """Let every further allocation of the process fail, from now on. Linux only."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    held = pages * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (held, held))
