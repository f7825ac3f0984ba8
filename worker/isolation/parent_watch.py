"""Ends a child process with its parent, also while the child is busy."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time

ORPHANED_EXIT_CODE = 75
POLL_S = 0.5
# prctl(2): the signal that the kernel sends once the parent's thread that started this has ended.
PR_SET_PDEATHSIG = 1


def watch_parent() -> None:
    """Exit this process within `POLL_S` of the end of its parent.

    A child that waits for a request sees the end of the pipe. One that is busy does not.
    """
    threading.Thread(target=_watch, args=[os.getppid()], name="parent-watch", daemon=True).start()


def end_with_parent(descriptor: int | None = None) -> None:
    """On Linux let the kernel kill this process once its parent has ended, also while stopped.

    The parent's thread that has started this process must be one that ends with the parent.
    Elsewhere `watch_parent` alone ends it, which does not run in a process that is stopped.
    A parent that has ended before is noticed by the other end of `descriptor`, which it had.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if descriptor is not None and has_no_other_end(descriptor):
        os._exit(ORPHANED_EXIT_CODE)


def has_no_other_end(descriptor: int) -> bool:
    """Whether the other end of a pipe or of a socket pair is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(ORPHANED_EXIT_CODE)
