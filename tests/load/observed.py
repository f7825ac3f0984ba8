"""`python -m tests.load.observed serve ...`: the real service, which prints its number of tasks.

On SIGUSR1 it prints how many asyncio tasks there are. The system can be asked for
descriptors and memory, but tasks are known to their own process alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from service.commands.main import main

STANDARD_OUTPUT = 1
ANSWER = "asyncio tasks:"


def tell_tasks(number: int, frame: object) -> None:
    """Print the number at once: a signal may come while the output's buffer is in use."""
    os.write(STANDARD_OUTPUT, f"{ANSWER} {len(asyncio.all_tasks())}\n".encode())


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell_tasks)
    sys.exit(main())
