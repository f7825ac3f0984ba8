"""The receiver: the thread that reads the pipe and fills the engine core's inbox.

It is the only reader, so the service is never blocked by a busy device, and it sees
the service's death at once, whatever the engine core is doing.
"""

from __future__ import annotations

import logging
import os
import queue
import threading

from protocol.channel import Channel, Closed
from protocol.messages import (
    Cancel,
    Configure,
    Load,
    Pin,
    SetMaxRunning,
    Shutdown,
    Submit,
    ToService,
    ToWorker,
    Unload,
)
from worker.intake.prepared import PreparationResult
from worker.intake.preprocessor import Preprocessor

logger = logging.getLogger(__name__)

ORPHANED_EXIT_CODE = 75
ORPHAN_GRACE_S = 1.0

Work = PreparationResult | Cancel | SetMaxRunning | Load | Unload | Pin | Shutdown
Inbox = queue.SimpleQueue[Work]


class Receiver(threading.Thread):
    """Reads until the pipe closes; `finished` is set once the engine core has ended by itself."""

    def __init__(
        self,
        channel: Channel[ToWorker, ToService],
        preprocessor: Preprocessor,
        inbox: Inbox,
        finished: threading.Event,
    ) -> None:
        super().__init__(name="receiver", daemon=True)
        self._channel = channel
        self._preprocessor = preprocessor
        self._inbox = inbox
        self._finished = finished

    def run(self) -> None:
        while True:
            try:
                message = self._channel.recv()
            except Closed as closed:
                return self._leave(closed)
            match message:
                case Submit():
                    self._preprocessor.submit(message)
                case Cancel(ids):
                    self._preprocessor.cancel(ids)
                    self._inbox.put(message)
                case SetMaxRunning() | Load() | Unload() | Pin() | Shutdown():
                    self._inbox.put(message)
                case Configure():
                    logger.warning("a second Configure was ignored")

    def _leave(self, closed: Closed) -> None:
        """The service is gone: end, even if the device never returns to the engine core."""
        self._inbox.put(Shutdown())
        if not self._finished.wait(ORPHAN_GRACE_S):
            logger.warning("the service is gone (%s); leaving a busy device", closed)
            os._exit(ORPHANED_EXIT_CODE)
