"""Ends a child process with its parent, also while the child is busy."""

from __future__ import annotations

import os
import threading
import time

ORPHANED_EXIT_CODE = 75
POLL_S = 0.5


def watch_parent() -> None:
    """Exit this process within `POLL_S` of the end of its parent.

    A child that waits for a request sees the end of the pipe. One that is busy does not.
    """
    threading.Thread(target=_watch, args=[os.getppid()], name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(ORPHANED_EXIT_CODE)
