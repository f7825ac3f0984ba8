"""`python -m tests.fakes.held_worker FD`: the fake worker, whose second answer waits for its death.

A test that kills a worker from outside cannot know how far the answer is by then. This worker
does not make the last token of its second answer, so that the answer is in progress on any
machine. The next worker, which resumes it, makes all of them.
"""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection

from tests.fakes.worker import FakeWorker, hang


class HeldWorker(FakeWorker):
    """A worker that serves one pipe until its second answer has one token left."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._seen: set[int] = set()

    def _step(self) -> None:
        self._seen |= self._running.keys()
        for row in self._running.values():
            if len(self._seen) > 1 and not row.submit.resume and row.position == row.end - 1:
                hang()
        super()._step()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(HeldWorker(Connection(int(sys.argv[1]))).run())
