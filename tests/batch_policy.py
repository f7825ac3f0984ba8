"""Tests that run models are scheduled as batch work, where services are not among them.

MLX computes in a thread that waits for each operation. On Linux a thread that is woken interrupts
the one that woke it, unless both are batch work. As batch work, tests of the scheduler took 0.71 of
the processor time (medians of five alternating runs, start included, machine load 10).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def become_batch_work() -> None:
    """Let no thread of this process interrupt another when it is woken."""
    if sys.platform == "linux":
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_BATCH, os.sched_param(0))
